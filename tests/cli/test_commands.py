"""The commands as a user runs them, with what a user may have done to the files."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hooks import ROOT
from snippets._cli import copies, library
from snippets._cli.copies import STORE
from tests.cli.conftest import BOXES, DETECTOR, FILES, NMS, Publish, tree

Run = Callable[..., int]
NEWER = BOXES.replace("EPS = 1e-9", "EPS = 1e-12")


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")


# What there is --------------------------------------------------------------------


def test_list_search_show(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list") == 0
    listed = capsys.readouterr().out
    assert "About nms" in listed and "https://example.org/boxes" in listed
    assert run("list", "--json") == 0
    assert [item["name"] for item in json.loads(capsys.readouterr().out)] == list(FILES)
    for words in (["交并比"], ["Intersection"], ["intersecton"], ["boxes", "nothing"]):
        assert run("search", *words) == 0, words
        assert "boxes" in capsys.readouterr().out.split("\n")[2], words
    assert run("search", "zebra") == 1
    assert "runnable-dl list" in capsys.readouterr().err
    assert run("show", "boxes") == 0
    shown = capsys.readouterr().out
    assert shown == library.copy_of("vision/boxes") and "\x1b" not in shown
    assert run("show", "vision/boxes.py") == run("show", "snippets/vision/boxes.py") == 0
    capsys.readouterr()
    assert run("show", "detector", "--deps") == 0
    assert capsys.readouterr().out.split() == [
        "vision/boxes",
        "vision/nms",
        "heads/detector",
        "torch",
    ]


def test_a_reader_that_leaves_early(run: Run) -> None:
    """As in `runnable-dl list | head`."""
    command = [sys.executable, "-m", "snippets", "list"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 0


def test_errors_in_both_languages(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("show", "detecter") == 2
    assert capsys.readouterr().err == "Error: no snippet 'detecter'; did you mean detector?\n"
    assert run("add", "../../etc/passwd", "--to", ".") == 2
    assert "no snippet '../../etc/passwd'" in capsys.readouterr().err
    for lang in ("C", "zh_CN.UTF-8"):
        monkeypatch.setenv("LANGUAGE", "")
        monkeypatch.setenv("LC_ALL", lang)
        with pytest.raises(SystemExit) as ended:
            run("add", "boxes")
        assert ended.value.code == 2
        with pytest.raises(SystemExit):
            run("update", "--help")
        said = "".join(capsys.readouterr())
        english = re.search(r"usage|options|positional|required|following|show this", said)
        assert bool(english) == (lang == "C"), said
    assert run("show", "detecter") == 2
    assert capsys.readouterr().err == "错误：没有名为“detecter”的代码片段；是不是 detector？\n"


# add ------------------------------------------------------------------------------


def test_add_brings_what_is_imported(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("add", "detector", "--to", "my/layers", "--dry-run") == 0
    assert not Path("my").exists() and "dry run" in capsys.readouterr().out
    assert run("add", "detector", "--to", "my/layers") == 0
    names = sorted(p.name for p in Path("my/layers").iterdir())
    assert names == [STORE, "boxes.py", "detector.py", "nms.py"]
    text = Path("my/layers/boxes.py").read_text("utf-8")
    assert "--8<--" not in text and "\n\n\n\n" not in text
    assert text.startswith("# runnable-dl: vision/boxes 0.1.0 sha256:")
    for line in ("Page: https://example.org/vision/boxes/", "Paper: https://example.org/boxes"):
        assert f"\n# {line}\n" in text
    assert "\n# SPDX-License-Identifier: MIT\n" in text
    assert "from .boxes import" in Path("my/layers/detector.py").read_text("utf-8")
    assert run("verify") == 0
    assert capsys.readouterr().out.count("as published in 0.1.0; demo runs") == 3
    assert run("add", "detector", "boxes", "--to", "my/layers") == 0
    assert capsys.readouterr().out.count("unchanged") == 3


def test_add_with_tests(run: Run) -> None:
    assert run("add", "detector", "--tests", "--to", "layers") == 0
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "2 passed" in done.stdout, done.stdout
    assert run("add", "detector", "--tests", "--to", "my-layers") == 3


def test_nothing_is_overwritten(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    Path("nms.py").write_text("mine\n")
    assert run("add", "boxes", "detector", "--to", ".") == 3
    assert "nms.py is there, and is something else" in capsys.readouterr().err
    assert list(tree(Path())) == ["nms.py"]
    assert run("add", "detector", "--to", ".", "--force") == 0
    edit(Path("boxes.py"), "EPS = 1e-9", "EPS = 1e-6")
    before = tree(Path())
    assert run("add", "boxes", "--to", ".") == 3
    assert "`runnable-dl update` merges" in capsys.readouterr().err
    assert run("add", "detector", "--to", ".") == 0  # which imports the edited file
    assert "kept       boxes.py" in capsys.readouterr().out
    assert tree(Path()) == before


def test_awkward_targets(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "in").mkdir()
    (tmp_path / "in/boxes.py").symlink_to(tmp_path / "outside/x.py")
    assert run("add", "boxes", "--to", "in", "--force") == 3
    assert "is a symbolic link" in capsys.readouterr().err
    (tmp_path / "in/boxes.py").unlink()
    (tmp_path / f"in/{STORE}").symlink_to(tmp_path / "outside", target_is_directory=True)
    assert run("add", "boxes", "--to", "in") == 3
    assert "leads out of in" in capsys.readouterr().err
    (tmp_path / f"in/{STORE}").unlink()
    Path("in/boxes.py").mkdir()
    assert run("add", "boxes", "--to", "in", "--force") == 3
    Path("in/boxes.py").rmdir()
    Path("in/boxes.py").write_text("mine")
    Path("in/boxes.py").chmod(0o444)
    assert run("add", "boxes", "--to", "in", "--force") == 3
    assert "is read-only" in capsys.readouterr().err
    assert run("add", "boxes", "--to", "in/boxes.py") == 3
    assert tree(tmp_path / "outside") == {}
    assert Path("in/boxes.py").read_text() == "mine"
    assert run("add", "detector", "--to", "路径 с пробелом/层") == 0
    assert run("verify", "--in", "路径 с пробелом") == 0
    (tmp_path / "link").symlink_to(tmp_path / "outside", target_is_directory=True)
    assert run("add", "boxes", "--to", "link") == 0, "the user names the link"


# diff, update, verify -------------------------------------------------------------


def test_update_where_nothing_was_edited(
    run: Run, publish: Publish, capsys: pytest.CaptureFixture[str]
) -> None:
    run("add", "detector", "--to", "layers")
    publish("0.2.0", {"vision/boxes": NEWER})
    assert run("update", "--dry-run") == 0
    assert "1e-9" in Path("layers/boxes.py").read_text("utf-8")
    assert run("update", "detector") == 0  # and what it imports
    assert Path("layers/boxes.py").read_text("utf-8") == library.copy_of("vision/boxes")
    capsys.readouterr()
    assert run("update") == 0
    assert capsys.readouterr().out.count("current") == 3


def test_edits_survive(run: Run, publish: Publish, capsys: pytest.CaptureFixture[str]) -> None:
    run("add", "boxes", "--to", "layers")
    path = Path("layers/boxes.py")
    edit(path, '"""IoU of boxes', '"""My IoU of boxes')
    assert run("diff") == 1
    said = capsys.readouterr().out
    assert '+    """My IoU of boxes' in said and "new since: none" in said
    history = NEWER.replace("Needs:", "History: 0.2.0  smaller EPS\n         than before.\nNeeds:")
    publish("0.2.0", {"vision/boxes": history})
    assert run("diff", "boxes") == 1
    said = capsys.readouterr().out
    assert "meaning changed: 0.2.0 smaller EPS than before." in said
    assert "-EPS = 1e-9\n+EPS = 1e-12" in said
    assert run("verify") == 1
    assert "differs from every published version; demo runs" in capsys.readouterr().out
    assert run("update") == 0
    text = path.read_text("utf-8")
    assert "My IoU" in text and "EPS = 1e-12" in text and "boxes 0.2.0 sha256" in text
    assert text.count("# runnable-dl:") == 1
    publish("0.3.0", {"vision/boxes": BOXES.replace("IoU of boxes", "Their IoU of boxes")})
    assert run("update") == 1
    text = path.read_text("utf-8")
    assert "My IoU" in text and "Their IoU" in text
    before = tree(Path())
    publish("0.4.0")
    assert run("update") == 3
    line = text.splitlines().index("<<<<<<< yours") + 1
    assert f"boxes.py:{line}: an earlier conflict is open" in capsys.readouterr().err
    assert tree(Path()) == before


def test_renamed_moved_and_other_line_ends(run: Run, publish: Publish) -> None:
    run("add", "boxes", "--to", "layers")
    Path("elsewhere/deep").mkdir(parents=True)
    path = Path("layers/boxes.py").rename("elsewhere/deep/iou.py")
    text = path.read_text("utf-8").replace("(N, 4) and (M, 4)", "naïve 框 (N, 4)")
    raw = b"\xef\xbb\xbf" + ("#!/usr/bin/env python\n# mine\n" + text).encode()
    path.write_bytes(raw.rstrip(b"\n").replace(b"\n", b"\r\n"))
    path.chmod(0o755)
    publish("0.2.0", {"vision/boxes": NEWER})
    assert run("update") == 0
    raw = path.read_bytes()
    assert raw.startswith(b"\xef\xbb\xbf#!/usr/bin/env python\r\n# runnable-dl: vision/boxes 0.2.0")
    assert raw.count(b"\r\n") == raw.count(b"\n") and not raw.endswith(b"\n")
    for part in ("# mine\r\n", "naïve 框", "EPS = 1e-12"):
        assert part.encode() in raw
    assert path.stat().st_mode & 0o777 == 0o755


def test_a_new_import_comes_along(run: Run, publish: Publish) -> None:
    alone = re.sub(r"from \.boxes.*\n|\+ EPS", "", NMS).replace("box_iou(", "torch.minimum(")
    publish("0.1.0", {"vision/nms": alone})
    run("add", "nms", "--to", ".")
    assert not Path("boxes.py").exists()
    publish("0.2.0")
    assert run("update") == 0
    assert Path("boxes.py").exists() and run("verify") == 0


def test_single_files_stay_single(run: Run, publish: Publish) -> None:
    assert run("add", "detector", "--single-file", "--to", ".") == 0
    assert sorted(p.name for p in Path().iterdir()) == [STORE, "detector.py"]
    edit(Path("detector.py"), "two axes", "2 axes")
    publish("0.2.0", {"vision/boxes": NEWER})
    assert run("update") == 0 and run("verify") == 1
    text = Path("detector.py").read_text("utf-8")
    assert "2 axes" in text and "EPS = 1e-12" in text and " single-file\n" in text


def test_without_the_version_it_was_copied_from(
    run: Run, publish: Publish, capsys: pytest.CaptureFixture[str]
) -> None:
    run("add", "boxes", "--to", ".")
    edit(Path("boxes.py"), "IoU of", "My IoU of")
    publish("0.2.0", {"vision/boxes": NEWER})
    (store,) = Path(STORE).glob("*.txt")
    store.write_text("broken")
    before = tree(Path())
    assert run("update") == 3 and tree(Path()) == before
    assert f"is not in {STORE}/: restore that folder" in capsys.readouterr().err
    assert run("diff") == 1
    publish("0.1.0")  # the installed library may have it
    assert run("update") == 0


def test_a_snippet_that_is_gone(
    run: Run, publish: Publish, capsys: pytest.CaptureFixture[str]
) -> None:
    run("add", "boxes", "--to", ".")
    edit(Path("boxes.py"), "vision/boxes", "vision/former")
    before = tree(Path())
    assert run("update") == run("diff") == run("verify") == 1 and tree(Path()) == before
    assert "gone upstream" in capsys.readouterr().out


def test_what_is_not_a_copy_is_left_alone(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("update") == 0 and "no copies in" in capsys.readouterr().err
    for folder in (".hidden", "node_modules", "env"):
        run("add", "boxes", "--to", folder)
    Path("env/pyvenv.cfg").touch()
    Path("link").symlink_to(".hidden", target_is_directory=True)
    Path("note.py").write_text("# runnable-dl: is a tool\n")
    Path("bytes.py").write_bytes(b"# runnable-dl: \xff\xfe\n")
    assert copies.find(Path())[0] == []
    assert run("diff", "boxes") == 2 and run("diff", "--in", "nowhere") == 3
    assert run("diff", ".hidden/boxes.py") == 0, "named by its path"


def test_a_demo_that_fails(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run("add", "detector", "--to", ".")
    edit(Path("nms.py"), "kept.append(i)", "kept.append(j)")
    assert run("verify", "detector") == 1
    assert "demo fails: NameError: name 'j' is not defined" in capsys.readouterr().out
    assert run("verify", "--python", "no-such-python") == 3


def test_bytes_that_are_no_text_survive(run: Run, publish: Publish) -> None:
    run("add", "boxes", "--to", ".")
    path = Path("boxes.py")
    path.write_bytes(path.read_bytes() + b"# caf\xe9\n")
    publish("0.2.0", {"vision/boxes": NEWER})
    assert run("update") == 0 and path.read_bytes().endswith(b"# caf\xe9\n")


def test_without_git(run: Run, publish: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    run("add", "detector", "--to", ".")
    publish("0.2.0", {"vision/boxes": NEWER, "vision/nms": NMS.replace("best first", "best")})
    monkeypatch.setenv("PATH", os.devnull)
    assert run("update", "boxes") == 0, "without edits nothing has to be merged"
    edit(Path("nms.py"), "to keep", "that stay")
    assert run("update", "nms") == 3
    assert DETECTOR.split("\n")[0] in Path("detector.py").read_text("utf-8")


@pytest.mark.parametrize(
    "script", ["exit 1", "echo text; kill -9 $$", "exit 0", "echo text; exit 3"]
)
def test_a_git_that_does_not_work(
    run: Run, publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    run("add", "boxes", "--to", "layers")
    edit(Path("layers/boxes.py"), "IoU of", "My IoU of")
    publish("0.2.0", {"vision/boxes": NEWER})
    (tmp_path / "bin").mkdir()
    git = tmp_path / "bin/git"
    git.write_text(f"#!/bin/sh\n{script}\n")
    git.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    before = tree(Path("layers"))
    assert run("update") == 3 and tree(Path("layers")) == before


def test_lines_of_the_user_in_the_header_stay(run: Run, publish: Publish) -> None:
    run("add", "boxes", "--to", ".")
    path = Path("boxes.py")
    mine = ["# SPDX-FileCopyrightText: 2026 My Company", "# Paper: my note", "# Page: mine"]
    mine += ["# Paper: https://example.org/mine"]
    for after in ("# Paper: https://example.org/boxes\n", "# SPDX-License-Identifier: MIT\n"):
        edit(path, after, after + "\n".join(mine) + "\n")
    assert run("diff") == 1
    publish("0.2.0", {"vision/boxes": NEWER})
    assert run("update") == 0
    lines = path.read_text("utf-8").splitlines()
    assert [lines.count(line) for line in mine] == [2, 2, 2, 2]
    assert sum(line.startswith("# runnable-dl:") for line in lines) == 1


def test_an_edit_saved_meanwhile(
    run: Run, publish: Publish, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("add", "detector", "--to", ".")
    publish("0.2.0", {"vision/boxes": NEWER, "vision/nms": NMS.replace("best", "top")})
    before = tree(Path())
    nms = Path("nms.py")
    saved = nms.read_bytes() + b"# saved\n"
    draft = copies._draft

    def saving(path: Path, content: bytes) -> Path:
        nms.write_bytes(saved)
        return draft(path, content)

    monkeypatch.setattr(copies, "_draft", saving)
    assert run("update") == 3
    assert "nms.py has just been changed" in capsys.readouterr().err
    after = tree(Path())
    assert after.pop("nms.py")[1] == saved and before.pop("nms.py") and after == before


def test_two_snippets_of_one_name(
    run: Run, publish: Publish, capsys: pytest.CaptureFixture[str]
) -> None:
    publish("0.1.0", {"other/boxes": BOXES})
    assert run("add", "boxes", "--to", ".") == 2
    assert "may be vision/boxes, other/boxes" in capsys.readouterr().err
    assert run("add", "vision/boxes", "other/boxes", "--to", ".") == 3
    assert tree(Path()) == {}


def test_an_older_tool_does_not_take_corrections_back(run: Run, publish: Publish) -> None:
    publish("0.10.0", {"vision/boxes": NEWER})
    run("add", "boxes", "--to", ".")
    publish("0.9.0", {"vision/boxes": BOXES})
    before = tree(Path())
    assert run("update") == 1 and tree(Path()) == before


def test_a_lost_store_comes_back(run: Run, publish: Publish) -> None:
    for command in (["update"], ["add", "boxes", "--to", "."]):
        run("add", "boxes", "--to", ".")
        for file in Path(STORE).iterdir():
            file.unlink()
        assert run(*command) == 0
    edit(Path("boxes.py"), "IoU of", "My IoU of")
    publish("0.2.0", {"vision/boxes": NEWER})
    assert run("update") == 0


def test_the_same_text_in_a_later_release(
    run: Run, publish: Publish, capsys: pytest.CaptureFixture[str]
) -> None:
    run("add", "boxes", "--to", ".")
    publish("0.2.0")
    assert run("update") == run("add", "boxes", "--to", ".") == 0
    assert "unchanged" in capsys.readouterr().out


def test_paths_with_dots(run: Run, publish: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    run("add", "boxes", "--to", "v1.0/one")
    run("add", "detector", "--to", "v1.0/my.lib")
    run("add", "nms", "--to", "v1.0")
    publish("0.2.0", {"vision/boxes": NEWER})
    monkeypatch.chdir("v1.0/one")
    assert run("update", "boxes.py", "../my.lib/boxes.py") == 0
    assert run("update", "--in", "..") == run("verify", "--in", "..") == 0


def test_versions_stay_in_the_repository(run: Run, publish: Publish) -> None:
    run("add", "boxes", "--to", "home")
    run("add", "nms", "--to", "home/project/layers")
    Path("home/project/.git").mkdir()
    Path("home/project/layers", STORE).rename("home/lost")
    publish("0.2.0", {"vision/nms": NMS.replace("best", "top")})
    assert run("update", "--in", "home/project") == 0
    assert len(list(Path("home/project/layers", STORE).glob("*.txt"))) == 2


def test_what_only_looks_like_a_copy(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run("add", "boxes", "--to", ".")
    text = Path("boxes.py").read_text("utf-8")
    Path("test_mine.py").write_text(f'COPY = """\n{text}"""\n', "utf-8")
    assert [copy.path.name for copy in copies.find(Path())[0]] == ["boxes.py"]
    assert run("update", "test_mine.py") == 3
    assert "no line `# runnable-dl: …` at its head" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run("add", "boxes", "--to", "")


def test_a_terminal_without_chinese(run: Run) -> None:
    environment = os.environ | {"LC_ALL": "zh_CN", "LANGUAGE": "", "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "snippets", "show", "nothing"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stderr.startswith("Error: no snippet")
