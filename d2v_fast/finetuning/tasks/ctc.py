"""Speech recognition by connectionist temporal classification: a symbol, or nothing, for each frame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor

from d2v_fast import registry
from d2v_fast.batch import Batch
from d2v_fast.data.labelled import LabelKind, Labelled
from d2v_fast.data.stages import Stage
from d2v_fast.errors import ConfigError, DataError, RunError
from d2v_fast.evaluation import metrics
from d2v_fast.finetuning.config import FinetuneConfig
from d2v_fast.finetuning.ctc_loss import Targets, ctc_loss, learnable
from d2v_fast.finetuning.heads import FinetunedNetwork, FrameHead
from d2v_fast.finetuning.latent_masks import channel_mask, hide, time_mask
from d2v_fast.finetuning.tasks.base import Score, SupervisedTask
from d2v_fast.finetuning.transcribe import BlankWatch, Transcriber, Transcript
from d2v_fast.finetuning.vocabulary import Vocabulary
from d2v_fast.log import tell
from d2v_fast.modalities.frames import FramesEmbedding
from d2v_fast.models import Encoder, Loss, skipped_blocks
from d2v_fast.training.task import Losses, Metrics

_MANY = 10**7
"""Samples: so many that the frames they make tell how far apart these are."""


class Ctc(SupervisedTask):
    """See `SupervisedTask`; labels are symbols int64 [B, L], filled up with the blank.

    `task.classes` are the symbols. The loss of an utterance is a sum over its symbols; a step's is the mean over
    utterances. Targets that do not fit into their frames, and those with characters that have no symbol, count in
    neither.
    """

    name = "ctc"
    about: ClassVar[str] = "transcripts of recordings (column text); word error rate"
    kind: ClassVar[LabelKind] = "transcript"
    chooses: ClassVar[str] = "wer"
    per_token: ClassVar[bool] = True
    smaller: ClassVar[frozenset[str]] = frozenset({"loss", "wer", "cer"})

    def __init__(self, config: FinetuneConfig) -> None:
        """See `SupervisedTask`.

        Raises:
            ConfigError: The modality has no frames over time, or clips would be cropped.
        """
        embedding = config.model.embedding
        if not isinstance(embedding, FramesEmbedding):
            raise ConfigError(f"the task ctc is for signals over time, not for {config.model.modality}")
        if not config.loader.pad:
            raise ConfigError("loader.pad is False: clips would be cropped, and their transcripts would not be")
        self.vocabulary = Vocabulary(config.task.classes, config.ctc.case)
        super().__init__(config)
        stride = round(_MANY / embedding.frames(_MANY))
        ctc, inputs = config.ctc, cast(Any, config.inputs)
        self.transcriber = Transcriber(
            self.vocabulary,
            stride / inputs.sample_rate,
            language_model=ctc.language_model,
            beam=ctc.beam,
            lm_weight=ctc.lm_weight,
            word_score=ctc.word_score,
            decoder=ctc.decoder,
        )
        self._watch, self._said = BlankWatch(ctc.blank_evaluations), ""

    @classmethod
    def defaults(cls, config: FinetuneConfig) -> Mapping[str, Any]:
        """Long sentences take part, the convolutions stay as they are, the head is one linear map.

        Gradients are clipped, which the released recipes do not: the first ones, of sums over utterances, are so large
        that Adam would take tiny steps for long, and small recognisers then stay at blanks.
        """
        inputs: Any = config.inputs
        if not hasattr(inputs, "max_seconds"):
            return {}
        return {
            "inputs.max_seconds": max(inputs.max_seconds, 40.0),
            "encoder.frozen_embedding": True,
            "head.norm": False,
            "optim.clip_norm": 1.0,
        }

    def build(self, encoder: Encoder) -> FinetunedNetwork:
        """The outputs of each frame."""
        network = self.config.model.transformer
        return FinetunedNetwork(encoder, FrameHead(self.config.head, network.dim, network.depth, self.outputs))

    @property
    def outputs(self) -> int:
        """One for each symbol."""
        return len(self.vocabulary)

    @property
    def measures(self) -> Mapping[str, Score]:
        """Error rates over all words, and over all characters."""
        return {
            "wer": lambda said, wanted: metrics.word_error_rate(wanted.tolist(), [str(one) for one in said]),
            "cer": lambda said, wanted: metrics.character_error_rate(wanted.tolist(), [str(one) for one in said]),
        }

    def wanted(self, labelled: Labelled) -> np.ndarray:
        """Transcripts as they are written, str [N]; U+FFFD stands for characters without a symbol."""
        return np.array([self._reference(text) for text in labelled.texts or ()], dtype=object)

    def _reference(self, text: str) -> str:
        return self.vocabulary.decode(self.vocabulary.encode(text)[0])

    def answers(self, outputs: Tensor, batch: Batch) -> np.ndarray:
        """Transcripts with times, [B]; see `answer`."""
        kept = self.nothing(len(outputs))
        for i, count in enumerate(self.frames(batch).tolist()):
            kept[i] = self.answer(outputs[i, :count])
        return kept

    def answer(self, outputs: Tensor) -> Transcript:
        """The transcript of the outputs [frames, symbols] of one recording.

        Raises:
            RunError: An output is not finite.
        """
        if not torch.isfinite(outputs).all():
            raise RunError("some outputs of the network are not finite: its training has failed")
        return self.transcriber(outputs.cpu())

    def nothing(self, count: int) -> np.ndarray:
        """None for each."""
        return np.full(count, None, dtype=object)

    def stage(self, labelled: Labelled) -> Stage:
        """Targets; a label length of -1 for those that nothing can be learned from."""
        targets = Targets.of([self.vocabulary.encode(text)[0] for text in labelled.texts or ()])

        def add(batch: Batch, epoch: int) -> Batch:
            labels, lengths = targets.labels[batch.sample_ids], targets.lengths[batch.sample_ids]
            fits = learnable(labels, lengths, self.frames(batch), self.outputs)
            return replace(batch, labels=labels, label_lengths=torch.where(fits, lengths, -1))

        return add

    def frames(self, batch: Batch) -> Tensor:
        """int64 [B] on the CPU, the valid frames of each sample."""
        lengths = batch.lengths
        if lengths is None:
            lengths = torch.full((len(batch.sample_ids),), batch.inputs.shape[1], dtype=torch.int64)
        frames = self.network.encoder.token_lengths(lengths)
        assert frames is not None
        return frames

    def trainable(self, train: Labelled) -> Labelled:
        """The samples that something can be learned from; the others are counted, with what to do about them.

        Raises:
            DataError: There is none.
        """
        config, inputs = self.config, cast(Any, self.config.inputs)
        sizes = self._lengths(train)
        encoded = [self.vocabulary.encode(text) for text in train.texts or ()]
        targets = Targets.of([tokens for tokens, _ in encoded])
        frames = self.network.encoder.token_lengths(sizes)
        assert frames is not None
        seconds: float = min(inputs.max_seconds, config.loader.batch_seconds or np.inf)
        known = (targets.labels < self.outputs).all(1)
        short = known & ~learnable(targets.labels, targets.lengths, frames, self.outputs) & (sizes > 0)
        long = sizes > round(seconds * inputs.sample_rate)
        if (count := int((~known).sum())) > 0:
            tell(f"left out {count} transcripts: {self.vocabulary.explain(''.join(lacking for _, lacking in encoded))}")
        if self.vocabulary.delimiter is None and any(" " in text.strip() for text in train.texts or ()):
            tell("the vocabulary has no '|', so spaces are left out: add it if words are to be told apart")
        if (count := int(short.sum())) > 0:
            first = train.source.name(int(short.nonzero()[0, 0]))
            tell(
                f"left out {count} transcripts that have more symbols than their recordings have frames (the first is "
                f"{first}): see that transcripts and recordings belong together"
            )
        if (count := int(long.sum())) > 0:
            tell(
                f"left out {count} recordings longer than {seconds:g} s, which would be cropped: raise "
                "inputs.max_seconds and loader.batch_seconds, or cut them"
            )
        keep = (known & ~short & ~long).nonzero()[:, 0].numpy()
        if len(keep) == 0:
            raise DataError(f"data: nothing can be learned from any of the {len(sizes)} transcripts")
        return train.take(keep)

    def _lengths(self, labelled: Labelled) -> Tensor:
        """int64 [N], samples in time of each recording; 0 where it is unreadable."""
        config, sizes = self.config, np.asarray(labelled.source.sizes, dtype=np.int64)
        modality: Any = registry.get(config.model.modality)
        sampling = modality.sampling(config.inputs, config.model.embedding, config.loader)
        readable = sizes.reshape(len(sizes), -1).min(1) > 0
        return torch.from_numpy(np.where(readable, sampling.lengths(sampling.known(sizes)), 0))

    def remarks(self, held: Labelled) -> list[str]:
        """Characters without a symbol: whatever is written there counts as an error."""
        lacking = [unknown for text in held.texts or () if (unknown := self.vocabulary.encode(text)[1])]
        if not lacking:
            return []
        return [
            f"{len(lacking)} of {len(held)} transcripts of the validation or test have characters that cannot be "
            f"written and count as errors: {self.vocabulary.explain(''.join(lacking))}"
        ]

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Not for transcripts, whose loss needs lengths: see `losses`."""
        raise NotImplementedError

    def counts(self, batch: Batch) -> dict[str, int]:
        """Utterances that something is learned from."""
        assert batch.label_lengths is not None
        return {self.name: int((batch.label_lengths >= 0).sum())}

    def losses(self, batch: Batch, step: int, micro_batch: int) -> Losses:
        """One forward pass with masks in time and channels."""
        config = self.config
        frames = self.frames(batch)

        def masked(local: Tensor) -> Tensor:
            time = time_mask(
                config.ctc.time_spans, frames, (local.shape[0], local.shape[1]), config.seed, step, micro_batch
            )
            channels = channel_mask(
                config.ctc.channel_spans, (local.shape[0], local.shape[2]), config.seed, step, micro_batch
            )
            return hide(local, time, channels, self.mask_token(local))

        outputs = self.network(
            batch.inputs,
            batch.lengths,
            skipped=None if config.encoder.frozen else skipped_blocks(config.model.transformer, config.seed, step),
            frozen=config.encoder.frozen or step < config.encoder.freeze_steps,
            frozen_embedding=config.encoder.frozen_embedding,
            change=None if config.encoder.frozen else masked,
        )
        return {self.name: Loss(self._loss(outputs, frames, batch), self.counts(batch)[self.name])}

    def _loss(self, outputs: Tensor, frames: Tensor, batch: Batch) -> Tensor:
        assert batch.labels is not None
        assert batch.label_lengths is not None
        return ctc_loss(outputs, frames, batch.labels, batch.label_lengths, batch.label_lengths >= 0)

    @torch.no_grad()
    def validate(self, batches: Iterator[Batch]) -> Metrics:
        """Loss and error rates of the held-out recordings; None for all if an output is not finite."""
        names = [f"validation_{name}" for name in ("loss", *self.measures)]
        said: list[str] = []
        wanted: list[str] = []
        total, count, finite = 0.0, 0, True
        self.network.eval()
        try:
            for batch in batches:
                assert batch.labels is not None
                outputs, frames = self.network(batch.inputs, batch.lengths), self.frames(batch)
                total += float(self._loss(outputs, frames, batch))
                count += self.counts(batch)[self.name]
                finite = finite and bool(torch.isfinite(outputs).all())
                if finite:
                    said += [self.transcriber.text(o[:n].cpu()) for o, n in zip(outputs, frames.tolist(), strict=True)]
                wanted += [self.vocabulary.decode(row[row > 0].tolist()) for row in batch.labels.cpu()]
        finally:
            self._train()
        if not finite or not wanted:
            return dict.fromkeys(names)
        self._said = self._watch.see(said) or ""
        measured = self.measure(np.array(said, dtype=object), np.array(wanted, dtype=object))
        return dict(zip(names, [total / count if count else None, *measured.values()], strict=True))

    def judge(self, line: Mapping[str, Any], step: int) -> list[str]:
        """That nothing but blanks comes out, once."""
        said, self._said = self._said, ""
        return [said] if said else []

    def read(self, outputs: np.ndarray) -> np.ndarray:
        """The transcripts as they are."""
        return outputs

    def describe(self, read: Any) -> dict[str, Any]:
        """What is said in a recording, a `Transcript`, and when, in seconds."""
        words = [{"word": word.text, "begin": round(word.begin, 3), "end": round(word.end, 3)} for word in read.words]
        return {"transcript": read.text, "words": words, "score": read.score}
