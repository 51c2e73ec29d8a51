"""The pretrained weights that a fine-tuning begins with."""

from __future__ import annotations

from d2v_fast.errors import ConfigError
from d2v_fast.finetuning import imported
from d2v_fast.finetuning.config import FinetuneConfig
from d2v_fast.finetuning.tasks import SupervisedTask
from d2v_fast.interop import foreign
from d2v_fast.run.reader import Run
from d2v_fast.run.weights import encoder_weights, fill, put


def load_pretrained(task: SupervisedTask, config: FinetuneConfig) -> None:
    """Put the pretrained weights into the encoder.

    Raises:
        ConfigError: The run has no such network.
        RunError: They cannot be read, or do not fit.
    """
    network = config.encoder.network
    if (folder := foreign.place(config.encoder.run)) is not None:
        if network == "teacher" and folder.is_file():
            tensors = foreign.teacher(folder, config.model)
        else:
            tensors = encoder_weights(folder, config.model)
        put(task.network.encoder, tensors, f"the weights in {folder}")
        imported.take_head(task.network.head, task.config.task, folder)
        return
    opened = Run(config.encoder.run)
    if network == "teacher" and isinstance(opened.config, FinetuneConfig):
        raise ConfigError(f"encoder.network is 'teacher', but {opened.path} is a fine-tuning, which has none")
    prefix = "encoder." if network == "student" else ""
    fill(task.network.encoder, opened.best(), network, prefix=prefix, finite=True)
