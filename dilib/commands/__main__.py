"""dilib COMMAND: what most people want from a shell."""

import sys
from importlib import import_module

COMMANDS = {  # each is a module beside this one
    "distill": "teach a student what a trained network knows, without its data",
    "invert": "make images from a trained network",
    "prune": "remove filters from a trained network, and tune what is left",
    "reproduce": "run the study's notebooks",
    "fill": "make the study's results without notebooks, as batch systems do",
    "report": "rebuild the study's report from the results there are",
}
ALIASES = {"distil": "distill"}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; its own exit status, or 2 for one that there is not."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        print("usage: dilib COMMAND …\n\n" + "\n".join(f"  {each:12}{purpose}" for each, purpose in COMMANDS.items()))
        print("\n`dilib COMMAND --help` has its options")
        return 0
    name = ALIASES.get(name, name)
    if name not in COMMANDS:
        print(f"error: unknown command {name!r}; choose from {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        module = import_module(f"dilib.commands.{name}")
    except ModuleNotFoundError as error:
        print(f"error: {name} needs {error.name}; get it by pip install 'dilib[study]'", file=sys.stderr)
        return 2
    return module.main(rest)


if __name__ == "__main__":
    sys.exit(main())
