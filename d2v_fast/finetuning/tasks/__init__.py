"""The tasks: what is learned from labels, each a `training.task.Task`."""

from d2v_fast.finetuning.tasks.base import SupervisedTask
from d2v_fast.finetuning.tasks.classify import Classify
from d2v_fast.finetuning.tasks.ctc import Ctc
from d2v_fast.finetuning.tasks.regress import Regress
from d2v_fast.finetuning.tasks.tag import Tag

TASKS: dict[str, type[SupervisedTask]] = {task.name: task for task in (Classify, Regress, Tag, Ctc)}
"""Name, as `task.name` has it, to the class."""

__all__ = ["TASKS", "Classify", "Ctc", "Regress", "SupervisedTask", "Tag"]
