"""Remove filters from a trained network and tune what is left, on images that it was made to dream."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from dilib.calls.prune import prune
from dilib.calls.tuning import NETWORK
from dilib.commands.given import add_test, answered, parser_of, real_images, teacher_of


def main(arguments: list[str] | None = None) -> int:
    """Prune what is asked for; 0 on success, 2 on bad input."""
    parser = parser_of("prune", __doc__)
    parser.add_argument("--images", type=Path, required=True, help="a folder that invert or distill filled")
    parser.add_argument("--filters", type=float, default=0.5, help="the share that goes (default: 0.5)")
    parser.add_argument("--minutes", type=float, default=5.0, help="about how long tuning may take (default: 5)")
    parser.add_argument("--updates", type=int, help="of what is left, in place of minutes")
    add_test(parser)
    options = parser.parse_args(arguments)
    return answered(lambda: _pruned(options))


def _pruned(options: argparse.Namespace) -> Iterator[str]:
    teacher = teacher_of(options)
    how = {name: getattr(options, name) for name in ("filters", "minutes", "updates", "precision", "seed")}
    found = prune(teacher, options.images, options.folder, test=real_images(options, teacher), **how)
    before, after = (sum(weight.numel() for weight in each.parameters()) for each in (teacher.network, found.network))
    yield f"{after:,} of {before:,} parameters are left."
    if found.after is not None:
        yield f"The network names {found.after:.1f} % of the test images; before tuning, {found.before:.1f} %."
    yield f"Its weights are {options.folder / NETWORK}; dilib.load_network(teacher, {str(options.folder)!r}) reads them"
