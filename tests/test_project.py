import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent
REQUIREMENT = re.compile(r'"([a-z0-9-]+==[^"]+)"')


def test_environment_yml_lists_the_same_dependencies():
    listed = REQUIREMENT.findall((ROOT / "pyproject.toml").read_text().split("dependencies = [")[1].split("\n]")[0])
    conda = re.findall(r'- "?([a-z0-9-]+==[^"\n]+)', (ROOT / "environment.yml").read_text())
    assert len(listed) >= 15
    assert conda == listed


def test_bare_make_lists_the_targets():
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("reproduce", "report", "smoke", "test", "lab", "clean"):
        assert f"make {target}" in shown
