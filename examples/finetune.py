"""From a pretrained run and labels to predictions: classes, values, tags or transcripts.

    python examples/finetune.py runs/a labelled/ runs/classes --test test/ --new new/
    python examples/finetune.py runs/speech train.jsonl runs/words --task ctc --recipe ctc-tiny --test test.jsonl

`labelled/` and `test/` hold a folder for each class, or are manifests with a column of labels. Run the same command
again and it continues where it stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import d2v_fast
from d2v_fast import finetuning


def main() -> None:
    """Fine-tune, judge by samples that were not trained on, and say what new ones are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a pretraining run")
    parser.add_argument("data", type=Path, help="samples with labels")
    parser.add_argument("out", type=Path, help="the run of the fine-tuning")
    parser.add_argument("--task", default="classify", choices=["classify", "regress", "tag", "ctc"])
    parser.add_argument("--recipe", default="classify-tiny", choices=finetuning.RECIPES)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--from-scratch", action="store_true", help="random weights: what is pretraining worth?")
    parser.add_argument("--test", type=Path, help="other samples with labels")
    parser.add_argument("--new", type=Path, help="samples without labels")
    args = parser.parse_args()

    out = d2v_fast.finetune(
        args.run,
        args.task,
        data=args.data,
        out=args.out,
        recipe=args.recipe,
        steps=args.steps,
        encoder={"from_scratch": args.from_scratch},
    )
    network = finetuning.load(out)  # the checkpoint that the held-out tenth of the data chose
    if args.test is not None:
        found = network.evaluate(args.test)
        for name, (low, high) in found.intervals.items():
            print(f"{name}: {found.metrics[name]:.3f} [{low:.3f}, {high:.3f}] of {found.samples} samples")
    if args.new is not None:
        for record in network.predict(args.new).records():
            print(record)


if __name__ == "__main__":
    main()
