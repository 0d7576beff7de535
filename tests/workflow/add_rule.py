"""Do in a copy of the project what docs/adding_a_rule.md says, and print the command that it ends with.

`python tests/workflow/add_rule.py COPY`; continuous integration then runs the command there.
"""

import re
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


def main(copy: Path) -> None:
    text = (PROJECT / "docs/adding_a_rule.md").read_text(encoding="utf-8")
    rule, include, command = re.findall(r"```\w+\n(.*?)```", text, flags=re.DOTALL)
    (copy / re.search(r"`(workflow/rules/\w+\.smk)`", text)[1]).write_text(rule, encoding="utf-8")
    with (copy / "Snakefile").open("a", encoding="utf-8") as snakefile:
        snakefile.write("\n\n" + include)
    sys.stdout.write(command)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
