"""Say what the first two image tokens of redrawn images show, in run folders of the embedded model.

    python -m experiments.starts RUN...

Grounds are 37 of the 4,096 codes. An image whose first tokens are no ground begins with a part of an object, or of two
grounds that do not belong together. Step 0, which no latents touch, is left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from milr.runs import Run, read_run
from milr.types import is_met
from training.grounds import CODES


def count_starts(run: Run) -> dict[str, float]:
    """Return the number of redrawn images, the share whose first tokens are both grounds', and the share that is right.

    Right is what the evaluator says.
    """
    starts: list[bool] = []
    right: list[bool] = []
    for task in run.tasks:
        verdicts = {(one.step, one.number): is_met(one.score, None) for one in task.evaluated}
        for step in task.steps[1:]:
            for number, image in enumerate(step.images):
                starts.append(all(token < CODES for token in image.tokens[:2]))
                right.append(verdicts[step.step, number])
    many = max(1, len(starts))
    return {"images": len(starts), "begin with a ground": sum(starts) / many, "right": sum(right) / many}


def main(argv: Sequence[str] | None = None) -> None:
    """Print a line for each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    for path in parser.parse_args(argv).runs:
        found = count_starts(read_run(path))
        said = f"{found['images']:.0f} redrawn images, {found['begin with a ground']:.2f} begin with a ground"
        print(f"{path.name}: {said}, {found['right']:.3f} are right")  # noqa: T201


if __name__ == "__main__":
    main()
