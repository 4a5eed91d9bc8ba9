"""`make serve` while someone writes: edits, mistakes, pages half done."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from hooks import ROOT

pytestmark = pytest.mark.slow

URL = "http://127.0.0.1:8767/"
NEW = "---\ntitle: {0}\ndescription: {0}.\n---\n\n# {0}\n"


def get(address: str) -> str:
    try:
        return urlopen(URL + address, timeout=20).read().decode()
    except HTTPError as error:
        return f"{error.code}"
    except OSError:  # or hung up, while it starts again
        return "nobody there"


def wait_for(address: str, text: str) -> None:
    """Until the page holds the text."""
    for _ in range(900):
        if text in get(address):
            return
        time.sleep(0.1)
    pytest.fail(f"{text!r} does not appear in {address}")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the project under `make serve`, what it says in log.txt."""
    copy = tmp_path_factory.mktemp("preview")
    for name in ("benchmarks", "docs", "hooks", "overrides", "snippets", ".cache"):
        shutil.copytree(ROOT / name, copy / name)
    for name in ("mkdocs.yml", "mkdocs.zh.yml", "pyproject.toml", "requirements.txt"):
        shutil.copy(ROOT / name, copy)
    (copy / "node_modules").symlink_to(ROOT / "node_modules")
    with (copy / "log.txt").open("w") as log:
        command = [sys.executable, "-m", "hooks", "serve"]
        server = subprocess.Popen(
            command, cwd=copy, env=os.environ | {"PORT": "8767"}, stdout=log, stderr=log
        )
        wait_for("zh/", "</html>")
        yield copy
        server.terminate()
        assert server.wait(20) == 0


def test_an_edit_and_a_mistake(project: Path) -> None:
    page = project / "docs/en/about.md"
    text = page.read_text("utf-8")
    page.write_text(f"{text}\nFirst edit.\n", "utf-8")
    wait_for("about/", "First edit.")
    assert "md-search__input" in get("about/")
    searched = get("search/search_index.json")
    assert "scaled_dot_product_attention" in searched
    page.write_text(f"{text}\n$\\nonsense$\n", "utf-8")
    for _ in range(100):
        if "The preview stays as it was" in (project / "log.txt").read_text("utf-8"):
            break
        time.sleep(0.1)
    else:
        pytest.fail("the mistake is not reported")
    assert "docs/en/about.md:" in (project / "log.txt").read_text("utf-8")
    assert "First edit." in get("about/") and "</html>" in get("zh/about/")
    page.write_text(f"{text}\nSecond edit.\n", "utf-8")
    wait_for("about/", "Second edit.")


def test_a_new_page_and_its_twin(project: Path) -> None:
    english, chinese = (project / f"docs/{lang}/concepts/new_page.md" for lang in ("en", "zh"))
    (english.parent / ".#sota.md").symlink_to("someone@somewhere.1")  # Emacs does so
    english.write_text(NEW.format("Fresh"), "utf-8")
    time.sleep(1)
    assert "</html>" in get("concepts/")
    chinese.write_text(NEW.format("新页"), "utf-8")
    wait_for("concepts/", "Fresh")
    wait_for("zh/concepts/new_page/", "新页")
    english.unlink()
    chinese.unlink()
    wait_for("concepts/new_page/", "404")


def test_an_edit_of_the_hooks(project: Path) -> None:
    file = project / "hooks/path.py"
    file.write_text(file.read_text("utf-8").replace("Read first", "Read before"), "utf-8")
    wait_for("", "Read before")


def test_a_port_in_use(project: Path) -> None:
    for port, message in (("8767", "Try: PORT=8001"), ("x", "PORT must be a number")):
        command = [sys.executable, "-m", "hooks", "serve"]
        environment = os.environ | {"PORT": port}
        done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
        assert done.returncode == 1 and message in done.stderr
