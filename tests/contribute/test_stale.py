"""Freshness of translations, on small repositories that grow commit by commit."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from bs4 import BeautifulSoup
from markdown import Markdown
from mkdocs.exceptions import PluginError

from hooks import ROOT, content, events, search
from hooks.contribute import deferred, history, lag, stale
from hooks.contribute.history import Unknown

TODAY = date(2026, 12, 24)
# In each language a text, and a sentence to add.
SAYS = {
    "en": (
        "A detector looks at every window of the image, and most windows show nothing at all. "
        "Their loss is small, but there are many, so that together they drown the few that matter.",
        "Mining takes only the hardest of them, three for each window with an object.",
    ),
    "zh": (
        "检测器要看图像的每个窗口，而大多数窗口里什么都没有。它们的损失虽小，数量却很多，"
        "加在一起就淹没了少数真正要紧的窗口。",
        "难例挖掘只取其中最难的，每个有物体的窗口配三个。",
    ),
}
MORE = {
    "en": "The ratio of three to one is a choice, and the loss depends on it.",
    "zh": "三比一的比例是人为选定的，损失的大小取决于它。",
}


def both(extra: dict[str, str] | None = None) -> dict[str, str]:
    return {lang: SAYS[lang][0] + (extra or {}).get(lang, "") for lang in SAYS}


def other(lang: str) -> str:
    return "zh" if lang == "en" else "en"


class Project:
    """A repository with pages in two languages."""

    def __init__(self, root: Path, day: date = date(2026, 11, 1)) -> None:
        self.root = root
        self.day = day

    def git(self, *args: str) -> str:
        who = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
        when = f"{self.day}T12:00:00 +0000"
        env = os.environ | {"GIT_AUTHOR_DATE": when, "GIT_COMMITTER_DATE": when}
        command = ["git", *who, *args]
        result = subprocess.run(command, cwd=self.root, env=env, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    def path(self, lang: str, name: str = "s/a") -> Path:
        return self.root / "docs" / lang / f"{name}.md"

    def write(self, *, name: str = "s/a", opening: str = "", **texts: str) -> None:
        """The page in the languages given, with its text in the section #why."""
        for lang, text in texts.items():
            path = self.path(lang, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            rest = "## Use { #use }\n\n```python\n## Not a heading { #no }\n```\n\nGo.\n"
            path.write_text(
                f"---\ntitle: {lang}\n---\n\n# {lang}\n\n{opening}\n\n"
                f"## Why {'{ #why }'}\n\n{text}\n\n{rest}",
                "utf-8",
            )

    def commit(self, subject: str = "Change", **texts: str) -> None:
        """A day later."""
        self.day += timedelta(1)
        self.write(**texts)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", subject)

    def head(self) -> str:
        return self.git("rev-parse", "HEAD")[:7]

    def lags(self) -> list[lag.Lag]:
        return lag.lags(TODAY, self.root)

    def behind(self) -> list[str]:
        """What lags."""
        return [found.place for found in self.lags()]

    def run(self, *args: str, today: date = TODAY) -> str:
        """The command; what it says when it fails, else nothing."""
        try:
            stale.main(*args, root=self.root, today=today)
        except SystemExit as end:
            return str(end.code or "")
        return ""


EN, ZH = "docs/en/s/a.md#why", "docs/zh/s/a.md#why"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """With one page, of which both languages stand together.

    No settings of the machine count, none of a hook of git that runs the tests.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("GIT_")]:
            patch.delenv(name)
        patch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
        patch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
        project = Project(tmp_path_factory.mktemp("first"))
        project.git("init", "--quiet", "--initial-branch=main")
        project.commit("A page", **both())
        yield project


@pytest.fixture
def project(original: Project, tmp_path: Path) -> Project:
    """A copy of the first one, which is quicker than git."""
    shutil.copytree(original.root, tmp_path / "project")
    return Project(tmp_path / "project", original.day)


# What is material -----------------------------------------------------------------------


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_a_sentence_said_in_one_language_makes_the_other_stale(project: Project, lang: str) -> None:
    text, sentence = SAYS[lang]
    project.commit("Mining", **{lang: text + " " + sentence})
    commit = project.head()
    project.commit("Something else", name="s/b", **both())
    (found,) = project.lags()
    assert (found.page, found.section, found.behind) == ("s/a", "why", other(lang))
    assert found.commit == history.Commit(commit, "2026-11-03", "Mining")
    assert found.words == pytest.approx(15, abs=1)
    assert found.share == pytest.approx(0.32, abs=0.04)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("drown", "outweigh", id="a word"),
        pytest.param("at all. Their", "at all; their", id="punctuation"),
        pytest.param("Their loss is small", "**Their loss** is *small*", id="emphasis"),
        pytest.param(" ", "\n", id="line ends"),
        pytest.param(SAYS["en"][0], SAYS["en"][0].upper(), id="capitals"),
        pytest.param("many,", "many (`few = 3`, $n = 3$),", id="code and formula"),
        pytest.param("the image", "[the image](../b.md#this-is-a-long-anchor)", id="a link"),
        pytest.param("many,", "many, as the paper shows in its appendix,", id="a short clause"),
        pytest.param(
            "together they drown the few that matter",
            "they hide, all of them together, the few that count",
            id="other words",
        ),
        pytest.param(
            "matter.", "matter.\n\n```text\nOne two. Three four. Five six.\n```", id="block"
        ),
        pytest.param("matter.", "matter. <!-- A comment that nobody will read. -->", id="comment"),
    ],
)
def test_mending_makes_nothing_stale(project: Project, old: str, new: str) -> None:
    text = SAYS["en"][0]
    assert old in text
    project.commit(en=text.replace(old, new))
    assert project.behind() == []


@pytest.mark.parametrize(
    ("lang", "addition"),
    [
        ("en", " It is slow."),
        ("zh", "它很慢，也费内存。"),
        ("en", "\n\n- windows without objects"),
        ("en", "\n\n| Focal loss | no mining |"),
        ("en", ", and mining takes only the hardest of them for each object"),
        ("zh", "，而难例挖掘只取其中最难的一小部分来算"),
    ],
)
def test_short_additions_that_say_more(project: Project, lang: str, addition: str) -> None:
    project.commit(**{lang: SAYS[lang][0] + addition})
    assert project.behind() == [{"en": ZH, "zh": EN}[lang]]


def test_what_is_taken_out_counts_as_well(project: Project) -> None:
    project.commit(en=SAYS["en"][0].partition(" Their")[0])
    assert project.behind() == [ZH]


OLD = tuple(f"word{n}" for n in range(90))


@pytest.mark.parametrize(("each", "material"), [(3, True), (4, False)])
def test_a_section_written_anew_is_material_though_no_place_is(each: int, material: bool) -> None:
    new = tuple(f"new{n}" if n % each == 0 else word for n, word in enumerate(OLD))
    assert lag.change(OLD, new, "en").material == material


@pytest.mark.parametrize(("many", "material"), [(26, False), (27, True)])
def test_other_words_in_one_place_count_a_third(many: int, material: bool) -> None:
    new = OLD[:30] + tuple(f"new{n}" for n in range(many)) + OLD[30 + many :]
    assert lag.change(OLD, new, "en").material == material


def test_a_word_between_that_stayed_is_no_interruption() -> None:
    text = tuple(f"new{n}" for n in range(14))
    new = OLD[:30] + text[:7] + OLD[30:31] + text[7:] + OLD[31:]
    assert lag.change(OLD, new, "en").stretch == pytest.approx(14 + 1 / 3)
    new = OLD[:30] + text[:7] + OLD[30:32] + text[7:] + OLD[32:]
    assert lag.change(OLD, new, "en").stretch == 7


def test_small_changes_add_up(project: Project) -> None:
    text = SAYS["en"][0].replace("nothing", "nothing, as the paper shows,")
    project.commit(en=text)
    assert project.behind() == []
    text = text.replace("nothing", "nothing that anyone could ever use")
    project.commit(en=text)
    tipped = project.head()
    assert project.behind() == [ZH]
    project.commit(en=text.replace("small", "very small"))
    assert project.lags()[0].commit.id == tipped, "since then, whatever comes later"


def test_each_section_is_followed_by_itself(project: Project) -> None:
    long = SAYS["en"][1]
    project.commit(opening=long, en=both()["en"])
    project.commit(zh=both()["zh"] + SAYS["zh"][1])
    assert project.behind() == ["docs/zh/s/a.md", EN]


# Who follows ----------------------------------------------------------------------------


def test_one_commit_in_both_languages(project: Project) -> None:
    texts = both({lang: SAYS[lang][1] for lang in SAYS})
    project.commit(**texts)
    assert project.behind() == []
    project.commit(en=texts["en"] + MORE["en"])  # from there on they are followed anew
    assert project.behind() == [ZH]


@pytest.mark.parametrize("first", ["en", "zh"])
def test_the_follower_catches_up(project: Project, first: str) -> None:
    for lang in (first, other(first)):
        project.commit(**{lang: SAYS[lang][0] + SAYS[lang][1]})
        assert bool(project.behind()) == (lang == first)
    # From there on they are followed anew.
    project.commit(en=SAYS["en"][0] + SAYS["en"][1] + MORE["en"])
    assert project.behind() == [ZH]


def test_a_touch_in_the_other_language_does_not_follow(project: Project) -> None:
    project.commit(en=SAYS["en"][0] + SAYS["en"][1], zh=SAYS["zh"][0].replace("真正", ""))
    assert project.behind() == [ZH]


def test_many_touches_in_the_other_language_do_not_follow(project: Project) -> None:
    zh = SAYS["zh"][0]
    for old, new in (("要看", "须看"), ("大多数", "绝大部分"), ("很多", "极多"), ("要紧", "重要")):
        assert old in zh
        zh = zh.replace(old, new)
    project.commit(zh=zh)  # before it
    project.commit(en=SAYS["en"][0] + SAYS["en"][1])
    assert project.behind() == [ZH]
    for old, new in (("淹没", "盖过"), ("少数", "几个"), ("窗口里", "窗内"), ("虽小", "虽然小")):
        assert old in zh
        zh = zh.replace(old, new)
    project.commit(zh=zh)  # after it
    assert project.behind() == [ZH]
    project.commit(zh=zh + SAYS["zh"][1])
    assert project.behind() == []


def test_touches_before_do_not_count_against_one_commit_in_both(project: Project) -> None:
    zh = SAYS["zh"][0].replace("检测器", "目标检测器").replace("损失虽小", "损失虽然不大")
    zh = zh.replace("真正要紧", "确实重要").replace("每个", "每一个").replace("加在一起", "合起来")
    project.commit(zh=zh)
    project.commit(en=SAYS["en"][0] + " It is slow.", zh=zh + "它跑起来很慢。")
    assert project.behind() == []


def of(**counts: int) -> lag.Texts:
    """So many words of English, so many signs of Chinese, one always after another."""
    return {lang: tuple(f"{lang}{i}" for i in range(n)) for lang, n in counts.items()}


DAYS = [history.Commit(str(n), f"2026-01-0{n}", "") for n in range(1, 5)]


def test_who_says_most_in_the_end_is_ahead() -> None:
    texts = [of(en=40, zh=60), of(en=52, zh=60), of(en=52, zh=60 + 90)]
    steps = list(zip(DAYS, texts))
    assert (found := lag.follow("p", "", steps[:2])) and found.behind == "zh"
    assert (found := lag.follow("p", "", steps)) and found.behind == "en"
    assert found.commit == DAYS[2]


def test_a_section_changes_by_its_whole_at_most() -> None:
    found = lag.follow("p", "", list(zip(DAYS, [of(en=60, zh=90), of(en=5, zh=90)])))
    assert found and found.words == 55 and found.share == 1


def test_it_begins_with_the_first_state_in_both_languages() -> None:
    english = history.State(DAYS[0], {"en": "Many words " * 9, "zh": None})
    both = history.State(DAYS[1], {"en": "Many words " * 9, "zh": "很多字" * 9})
    (steps,) = lag._steps([english, both]).values()
    assert [commit for commit, _ in steps] == [DAYS[1]]


def test_what_is_taken_back_makes_nothing_stale(project: Project) -> None:
    project.commit(en=SAYS["en"][0] + SAYS["en"][1])
    project.commit(en=SAYS["en"][0])
    assert project.behind() == []


def test_what_both_say_later_does_not_hide_what_one_owes(project: Project) -> None:
    project.commit(en=SAYS["en"][0] + SAYS["en"][1])
    since = project.head()
    en, zh = SAYS["en"][0] + SAYS["en"][1] + MORE["en"], SAYS["zh"][0] + MORE["zh"]
    project.commit(en=en, zh=zh)
    assert [(found.place, found.commit.id) for found in project.lags()] == [(ZH, since)]
    project.commit(zh=zh + SAYS["zh"][1])
    assert project.behind() == []


# Git ------------------------------------------------------------------------------------


@pytest.mark.parametrize("staged", [False, True])
def test_what_is_not_committed_counts(project: Project, staged: bool) -> None:
    project.write(en=SAYS["en"][0] + SAYS["en"][1])
    if staged:
        project.git("add", "--all")
    (found,) = project.lags()
    assert found.commit == history.Commit("", "2026-12-24", "not committed yet")
    project.write(zh=SAYS["zh"][0] + SAYS["zh"][1])
    assert project.behind() == []


def test_pages_not_yet_in_git(project: Project) -> None:
    project.write(name="s/new", **both())
    project.write(name="s/half", en=SAYS["en"][0])
    assert project.behind() == []


def test_an_edit_is_seen_without_a_new_commit_and_a_commit_without_an_edit(
    project: Project,
) -> None:
    """As `make serve` asks again and again, in one process."""
    project.write(en=SAYS["en"][0] + SAYS["en"][1])
    assert project.lags()[0].commit.id == ""
    project.commit()
    assert project.lags()[0].commit.id == project.head()


@pytest.mark.parametrize("setting", ["", "diff.renames false", "color.ui always"])
def test_renamed_pages_keep_their_history(project: Project, setting: str) -> None:
    """Whatever the settings of who looks."""
    if setting:
        project.git("config", *setting.split())
    project.commit(en=SAYS["en"][0] + SAYS["en"][1])
    commit = project.head()
    for lang in ("en", "zh"):  # one after the other
        project.path(lang, "t/b").parent.mkdir(parents=True)
        project.git("mv", f"docs/{lang}/s/a.md", f"docs/{lang}/t/b.md")
        if lang == "en":
            project.commit("Move")
    assert [(f.place, f.commit.id) for f in project.lags()] == [("docs/zh/t/b.md#why", commit)]
    project.commit("Move")
    # Another page takes the name; what was translated before is none of its business.
    project.commit(name="s/a", **both())
    assert project.behind() == ["docs/zh/t/b.md#why"]


def test_a_page_that_lay_in_the_folder_of_the_other_language(project: Project) -> None:
    """git calls it renamed; what it said there is not what this language said."""
    project.commit(name="s/b", zh=SAYS["en"][0])
    project.git("mv", "docs/zh/s/b.md", "docs/en/s/b.md")
    project.commit("Move")
    project.commit(name="s/b", zh=SAYS["zh"][0])
    assert project.behind() == []


@pytest.mark.parametrize(("old", "new"), [(b"---\nt", b"\xef\xbb\xbf---\nt"), (b"\n", b"\r\n")])
def test_a_mark_at_the_start_and_other_line_ends_say_nothing(
    project: Project, old: bytes, new: bytes
) -> None:
    project.write(name="s/b", **both())
    path = project.path("en", "s/b")
    saved = path.read_bytes().replace(b"title: en", b"title: " + SAYS["en"][0].encode())
    path.write_bytes(saved.replace(old, new))
    project.commit()
    path.write_bytes(saved)
    assert project.behind() == []


def test_a_deleted_twin_and_its_return(project: Project) -> None:
    old = project.path("zh").read_text("utf-8")
    project.path("zh").unlink()
    assert project.behind() == []
    project.commit("Delete")
    project.commit(en=SAYS["en"][0] + SAYS["en"][1])
    assert project.behind() == []
    project.path("zh").write_text(old, "utf-8")
    assert project.behind() == [ZH], "the old translation"
    project.write(zh=SAYS["zh"][0] + SAYS["zh"][1])
    assert project.behind() == []


def test_a_translation_that_comes_later_begins_fresh(project: Project) -> None:
    project.commit(name="s/b", en=SAYS["en"][0])
    project.commit(name="s/b", en=SAYS["en"][0] + SAYS["en"][1])
    project.commit(name="s/b", zh=SAYS["zh"][0] + SAYS["zh"][1])
    assert project.behind() == []


def test_a_merge_is_one_step(project: Project) -> None:
    project.git("switch", "--quiet", "--create", "topic")
    project.commit(en=SAYS["en"][0] + SAYS["en"][1])
    project.commit("Something else", name="s/b", **both())
    project.git("switch", "--quiet", "main")
    project.commit(name="s/c", **both())
    project.day += timedelta(1)
    project.git("merge", "--quiet", "--no-ff", "--message", "Merge mining", "topic")
    (found,) = project.lags()
    assert (found.behind, found.commit.subject) == ("zh", "Merge mining")
    project.git("switch", "--quiet", "topic")
    project.commit(zh=SAYS["zh"][0] + SAYS["zh"][1])
    project.git("switch", "--quiet", "main")
    project.git("merge", "--quiet", "--no-ff", "--message", "Merge again", "topic")
    assert project.behind() == []


def test_a_squashed_merge(project: Project) -> None:
    project.git("switch", "--quiet", "--create", "topic")
    project.commit(en=SAYS["en"][0] + SAYS["en"][1])
    project.commit(zh=SAYS["zh"][0] + SAYS["zh"][1])
    project.git("switch", "--quiet", "main")
    project.git("merge", "--quiet", "--squash", "topic")
    project.commit("Mining")
    assert project.behind() == []


def test_what_a_terminal_would_obey_is_left_out_of_the_subject(project: Project) -> None:
    project.commit("Mining \x1b[2J\x07here", en=SAYS["en"][0] + SAYS["en"][1])
    assert project.lags()[0].commit.subject == "Mining [2Jhere"


def test_an_object_that_git_lacks(project: Project) -> None:
    blob = project.git("rev-parse", "HEAD:docs/en/s/a.md")
    (project.root / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    with pytest.raises(Unknown, match=f"git lacks the object {blob}; run git fetch --refetch"):
        project.lags()


# Where it cannot be known ---------------------------------------------------------------


def shallow(project: Project) -> Path:
    clone = project.root.parent / "clone"
    project.git("clone", "--quiet", "--depth=1", project.root.as_uri(), str(clone))
    return clone


def without_git(project: Project) -> Path:
    shutil.rmtree(project.root / ".git")
    return project.root


def inside_another(project: Project) -> Path:
    folder = project.root / "vendor"
    shutil.copytree(project.root / "docs", folder / "docs")
    return folder


def without_commits(project: Project) -> Path:
    shutil.rmtree(project.root / ".git")
    project.git("init", "--quiet")
    return project.root


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (shallow, "shallow.* git fetch --unshallow"),
        (without_git, "no repository .*clone the project"),
        (inside_another, "is that of .*project; clone the project"),
        (without_commits, "no commit 'HEAD' here"),
    ],
)
def test_it_says_so_where_it_cannot_tell(
    project: Project,
    make: Callable[[Project], Path],
    remedy: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    project.commit(en=SAYS["en"][0] + SAYS["en"][1])
    root = make(project)
    stale._say.cache_clear()
    assert stale.by_page("zh", root) == stale.by_page("zh", root) == {}, "the site is built"
    said = capsys.readouterr().out
    assert re.search(remedy, said) and said.count("cannot be told") == 1
    summary = stale.summary(TODAY, root)
    assert summary.behind == {} and re.search(remedy, summary.unknown)
    stale.main(root=root, today=TODAY)  # exit code 0
    assert re.search(remedy, capsys.readouterr().out)
    for options in (["--since", "HEAD"], ["--defer", ZH, "Later"]):
        with pytest.raises(SystemExit, match=remedy):  # no check is no pass
            stale.main(*options, root=root, today=TODAY)


def test_no_git_at_all(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(project.root))
    with pytest.raises(Unknown, match="git is not installed; install it"):
        project.lags()


# The command ----------------------------------------------------------------------------


def test_the_list(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert project.run() == ""
    assert capsys.readouterr().out == "No section lags behind the other language.\n"
    project.commit("Mining", en=SAYS["en"][0] + SAYS["en"][1])
    assert project.run() == ""
    row = capsys.readouterr().out.splitlines()[1]
    assert re.split(r"  +", row) == [
        *(ZH, "zh", f"2026-11-03 {project.head()}"),
        *("14 words, 28% of the section", "Mining"),
    ]


def test_the_commands_of_the_project_know_it() -> None:
    command = [sys.executable, "-m", "hooks", "stale", "--since", "no/such/branch"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1 and "cannot be told" in result.stderr


@pytest.fixture
def branch(project: Project) -> Project:
    """On a branch; meanwhile main goes on, in one language."""
    project.git("switch", "--quiet", "--create", "topic")
    project.git("switch", "--quiet", "main")
    project.commit("Of main", name="s/main", **both())
    project.commit(name="s/main", en=SAYS["en"][0] + SAYS["en"][1])
    project.git("switch", "--quiet", "topic")
    return project


def test_a_branch_that_makes_a_section_stale_fails(branch: Project) -> None:
    assert branch.run("--since", "main") == ""
    branch.commit(en=SAYS["en"][0] + SAYS["en"][1])
    said = branch.run("--since", "main")
    assert re.search(r"docs/zh/s/a\.md:9: .* in English has changed \(14 words, 28%", said)
    assert f'stale --defer {ZH} "reason"' in said
    branch.write(zh=SAYS["zh"][0] + SAYS["zh"][1])  # not committed yet
    assert branch.run("--since", "main") == ""
    branch.commit(zh=SAYS["zh"][0] + SAYS["zh"][1])
    assert branch.run("--since", "main") == ""
    branch.git("merge", "--quiet", "--no-edit", "main")
    assert branch.run("--since", "main") == "", "what main owes is not the branch's"


def test_what_was_stale_before_is_not_the_branchs_fault_unless_it_adds_to_it(
    project: Project,
) -> None:
    text = SAYS["en"][0] + SAYS["en"][1]
    project.commit(en=text)
    project.git("switch", "--quiet", "--create", "topic")
    project.commit(en=text.replace("small", "very small"))
    assert project.run("--since", "main") == ""
    project.commit(en=text + MORE["en"])
    assert ZH in project.run("--since", "main")


def test_what_main_mends_meanwhile_is_not_the_branchs_fault(project: Project) -> None:
    project.commit(en=SAYS["en"][0] + SAYS["en"][1])
    project.git("switch", "--quiet", "--create", "topic")
    project.git("switch", "--quiet", "main")
    project.commit(zh=SAYS["zh"][0] + SAYS["zh"][1])
    project.git("switch", "--quiet", "topic")
    assert project.run("--since", "main") == ""


def test_a_renamed_page_that_was_stale_before(project: Project) -> None:
    project.commit(en=SAYS["en"][0] + SAYS["en"][1])
    project.git("switch", "--quiet", "--create", "topic")
    for lang in ("en", "zh"):
        project.git("mv", f"docs/{lang}/s/a.md", f"docs/{lang}/s/z.md")
    project.commit("Move")
    assert project.run("--since", "main") == ""


def test_a_new_page_that_goes_on_in_one_language(project: Project) -> None:
    project.git("switch", "--quiet", "--create", "topic")
    project.commit(name="s/new", **both())
    assert project.run("--since", "main") == ""
    project.commit(name="s/new", en=SAYS["en"][0] + SAYS["en"][1])
    assert "docs/zh/s/new.md:" in project.run("--since", "main")
    assert project.run("--defer", "docs/zh/s/new.md#why", "Later") == ""
    assert project.run("--since", "main") == ""


def test_commits_that_each_pass_are_looked_at_as_one_too(project: Project) -> None:
    """For a squashed merge makes one of them; and such a section can be deferred."""
    project.git("switch", "--quiet", "--create", "topic")
    en, zh = SAYS["en"][0] + SAYS["en"][1], SAYS["zh"][0] + "只取其中最难的样本来用。"
    project.commit(en=en, zh=zh)
    project.commit(en=en.replace("many,", "many, as the paper shows in its long appendix,"))
    assert project.behind() == []
    assert f'stale --defer {ZH} "reason" --since main' in project.run("--since", "main")
    assert project.run("--defer", ZH, "Later", "--since", "main") == ""
    assert project.run("--since", "main") == ""


# Deferral -------------------------------------------------------------------------------


@pytest.fixture
def deferring(project: Project) -> Project:
    """A branch on which a section lags and has been deferred."""
    project.git("switch", "--quiet", "--create", "topic")
    project.commit(en=SAYS["en"][0] + SAYS["en"][1])
    assert project.run("--defer", ZH, "等审校") == ""
    return project


def test_a_deferred_section_passes_until_its_day(
    deferring: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    until = TODAY + timedelta(60)
    assert deferring.run("--since", "main", today=until) == ""
    said = deferring.run("--since", "main", today=until + timedelta(1))
    assert re.search(r"docs/deferred\.yml:2: .*#why \(zh\) was deferred until 2027-02-22", said)
    capsys.readouterr()
    deferring.run()
    assert "zh (deferred until 2027-02-22)" in capsys.readouterr().out
    assert deferring.lags(), "readers see the note in any case"
    summary = stale.summary(TODAY, deferring.root)
    assert summary == stale.Summary({"en": 0, "zh": 1}, 1)
    assert stale.summary(until, deferring.root).deferred == 1
    assert stale.summary(until + timedelta(1), deferring.root).deferred == 0


def test_a_deferral_holds_for_what_the_section_says(deferring: Project) -> None:
    text = SAYS["en"][0] + SAYS["en"][1]
    deferring.commit(en=text.replace("small", "**small**"))
    assert deferring.run("--since", "main") == ""
    deferring.commit(en=text + MORE["en"])
    assert "deferred.yml:2: s/a#why (zh) has changed further" in deferring.run("--since", "main")
    assert stale.summary(TODAY, deferring.root).deferred == 0
    assert deferring.run("--defer", ZH, "Anew") == ""
    assert deferring.run("--since", "main") == ""
    assert len(deferred.load(deferred.file(deferring.root))) == 1, "in place of the old one"


def test_a_deferral_goes_when_the_section_is_fresh(deferring: Project) -> None:
    deferring.commit(zh=SAYS["zh"][0] + SAYS["zh"][1])
    said = deferring.run("--since", "main")
    assert "deferred.yml:2: s/a#why (zh) is not stale; delete the entry" in said


def test_entries_are_kept_in_order_and_as_they_are(deferring: Project) -> None:
    deferring.commit(name="r/z", **both())
    deferring.write(name="r/z", zh=SAYS["zh"][0] + SAYS["zh"][1])
    before = deferred.load(deferred.file(deferring.root))[0][1]
    assert deferring.run("--defer", "docs/en/r/z.md#why", "Words: 'late'") == ""
    (one, first), (two, second) = deferred.load(deferred.file(deferring.root))
    assert (first.page, first.behind, first.reason) == ("r/z", "en", "Words: 'late'")
    assert second == before and second.reason == "等审校"
    text = deferred.file(deferring.root).read_text("utf-8").splitlines()
    assert text[one - 1] == "- page: r/z" and text[two - 1] == "- page: s/a"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("docs/zh/s/a.md#wy", "x"), "'docs/zh/s/a.md#wy' is not stale; did you mean '.*#why'"),
        (("docs/en/s/a.md#why", "x"), "not stale; did you mean 'docs/zh/s/a.md#why'"),
        (("docs/zh/s/a.md#why", "  "), "no reason"),
    ],
)
def test_bad_wishes_to_defer(deferring: Project, args: tuple[str, str], said: str) -> None:
    before = deferred.file(deferring.root).read_text("utf-8")
    assert re.search(said, deferring.run("--defer", *args))
    assert deferred.file(deferring.root).read_text("utf-8") == before


GOOD = "page: s/a, section: why, behind: zh, reason: Later, until: 2027-01-01, digest: abcd1234"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("page: s/a", ":1: a list of entries is expected"),
        ("- s/a", ":1: a list of entries is expected"),
        ("[{" + GOOD + "}]", ":1: begin each entry"),
        (f"\n- {{{GOOD}, why: no}}", ":2: unknown field 'why'"),
        (f"- {{{GOOD}}}\n- {{{GOOD}}}", ":2: the entry in line 1 again"),
        (f"- {{{GOOD.replace('reason: Later, ', '')}}}", ":1: 'reason' is missing"),
        (f"- {{{GOOD.replace('Later', ' ')}}}", ":1: 'reason' must be text"),
        (f"- {{{GOOD.replace('Later', '«»'.strip('«»') + chr(34) * 2)}}}", ":1: no reason"),
        (f"- {{{GOOD.replace('2027-01-01', 'soon')}}}", ":1: 'until' must be a day such as"),
        (f"- {{{GOOD.replace('2027-01-01', '2027-01-01 10:00:00')}}}", ":1: 'until' must be a day"),
        (f"- {{{GOOD.replace('abcd1234', '12345678')}}}", ":1: 'digest' must be text; set it"),
        (f"- {{{GOOD.replace('zh', 'fr')}}}", ":1: 'behind' is one of en, zh"),
        ("- {", ":1: not YAML|:2: not YAML"),
    ],
)
def test_bad_entries(project: Project, text: str, said: str) -> None:
    deferred.file(project.root).write_text(text, "utf-8")
    with pytest.raises(PluginError, match=said):
        project.run("--since", "main")


def test_nobody_defers_for_longer(deferring: Project) -> None:
    file = deferred.file(deferring.root)
    file.write_text(file.read_text("utf-8").replace("2027-02-22", "2027-02-23"), "utf-8")
    assert "deferred.yml:2: deferred for more than 60 days" in deferring.run("--since", "main")
    assert stale.summary(TODAY, deferring.root).deferred == 0


# The site -------------------------------------------------------------------------------

LAG = lag.Lag("s/a", "why", "zh", 15, 0.3, history.Commit("abc", "2026-11-20", "Mining"), "d")
EXTENSIONS = ["attr_list", "toc"]


def rendered(markdown: str) -> str:
    options = {"toc": {"permalink": True}}
    return Markdown(extensions=EXTENSIONS, extension_configs=options).convert(markdown)


def test_the_note_stands_below_the_heading_and_leads_to_the_other_language() -> None:
    html = rendered("# A\n\nText.\n\n## Why { #why }\n\nText.\n\n## Why not { #why-not }\n")
    soup = BeautifulSoup(stale.set_notes(html, [LAG], "s/a/"), "html.parser")
    (note,) = soup.select("p.stale[role=note]")
    assert note.find_previous_sibling() == soup.select_one("h2#why")
    assert note.get_text() == "本节的英文版在 2026-11-20 有更新，中文版尚未跟上。 阅读英文版"
    assert note.a and (note.a["href"], note.a["hreflang"]) == ("../../../s/a/#why", "en")
    assert stale.set_notes(html, [], "s/a/") == html


@pytest.mark.parametrize(
    ("address", "href"), [("s/a/", "../../zh/s/a/"), ("s/", "../zh/s/"), ("./", "./zh/./")]
)
def test_the_note_on_the_beginning_of_a_page(address: str, href: str) -> None:
    opening = lag.Lag("s/a", "", "en", 15, 0.3, LAG.commit, "d")
    html = stale.set_notes(rendered("# A\n\nText."), [opening], address)
    soup = BeautifulSoup(html, "html.parser")
    note = soup.select_one("h1 + p.stale")
    assert note and note.a and note.a["href"] == href
    assert "the beginning of this page was updated on 2026-11-20" in note.get_text()


def test_the_build_sets_the_note_and_the_search_leaves_it_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entries = content.entries()
    found = lag.Lag("about", "text", "zh", 15, 0.3, LAG.commit, "d")
    for name, value in {"lang": "zh", "entries": entries, "lags": {"about": [found]}}.items():
        monkeypatch.setattr(events.State, name, value, raising=False)
    file = SimpleNamespace(src_uri="about.md")
    page = SimpleNamespace(file=file, url="about/", meta={}, content="")
    html = rendered("# A\n\n## B { #text }\n\nWords.")
    config = SimpleNamespace(repo_url="")
    page.content = events.on_page_content(html, page, config, None)  # type: ignore[arg-type]
    assert '</h2><p class="stale"' in page.content
    (_, section) = search.read(page)  # type: ignore[arg-type]
    assert section.text == "Words."


def test_the_site_asks_for_each_language(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.commit(en=SAYS["en"][0] + SAYS["en"][1])
    assert list(stale.by_page("zh", project.root)) == ["s/a"]
    assert stale.by_page("en", project.root) == {}
