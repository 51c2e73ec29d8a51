"""A recipe between tiny and base for each modality: about an hour on two CPU cores, or minutes on a GPU.

A step takes 0.33 (pictures), 0.065 (speech) and 0.1 CPU seconds (text; measured.md); the steps are as many as fit into
about 1.4 CPU hours. `--for-budget` fits them to other data, another machine or another time.

Nothing here is published, and no number was chosen by the labels that docs/worth.md reports. A docstring says where
each number comes from: a released recipe, the tiny presets and what was tried for them (measured.md), or "ours".

All but text have heads of 64 channels, a feed-forward network of four times the width and K of two thirds of the
blocks, as published, and 6 blocks: half of a base model's. A teacher's decay is that of `vision2-base` in shares of the
run: it forgets half of what it knows within 0.9 % of the steps at first and within 18 % at the end (`decay_of`). Those
of speech and text have their own.
"""

from __future__ import annotations

from dataclasses import replace

from d2v_fast.config import CheckpointConfig, Config, EmaConfig, LogConfig, MonitorConfig, OptimConfig
from d2v_fast.data.config import LoaderConfig
from d2v_fast.masking.config import FixedSpanMask, InverseBlockMask, TokenMask
from d2v_fast.modalities.spectrogram.config import SpectrogramEmbedding, SpectrogramInputs
from d2v_fast.modalities.text.config import TextEmbedding, TextInputs
from d2v_fast.modalities.vision.config import VisionEmbedding, VisionInputs
from d2v_fast.models.config import (
    DecoderConfig,
    HeadConfig,
    LossConfig,
    ModelConfig,
    TargetConfig,
    TeacherConfig,
    TransformerConfig,
)

FIRST_HALF_LIFE = 0.009
LAST_HALF_LIFE = 0.18
"""Shares of the steps in which the teacher forgets half, at the start and at the end: `vision2-base` has 3,465 and
69,314 of 375,300 steps."""

SLOW = (3.0, 6.0)
"""Such shares of a teacher that hardly moves, whose targets stay what an untrained network makes of a text."""

ANNEALED = 0.27
"""Share of the steps after which the decay is the last one: 100,000 of 375,300."""


def decay_of(steps: int, half_lives: tuple[float, float] = (FIRST_HALF_LIFE, LAST_HALF_LIFE)) -> EmaConfig:
    """The decay of a teacher for a run of so many steps, at least 1; see the top of the file.

    Args:
        steps: Of the run.
        half_lives: Shares of them in which it forgets half, at the start and at the end.
    """
    first, last = (0.5 ** (1 / max(1.0, share * steps)) for share in half_lives)
    return EmaConfig(start=round(first, 6), end=round(last, 6), anneal_steps=max(1, round(ANNEALED * steps)))


def half_lives_of(recipe: Config) -> tuple[float, float] | None:
    """The shares of its steps in which a recipe's teacher forgets half, if its decay is one of `decay_of`'s."""
    usual = (FIRST_HALF_LIFE, LAST_HALF_LIFE)
    return next((shares for shares in (usual, SLOW) if recipe.ema == decay_of(recipe.steps, shares)), None)


def fitted_decay(recipe: Config, steps: int) -> EmaConfig:
    """The decay of a recipe's teacher for a run of so many steps, at least 1.

    Where the recipe's is that of `decay_of`, it follows the steps; another keeps its first and last value, and only the
    time between them follows.
    """
    if (half_lives := half_lives_of(recipe)) is not None:
        return decay_of(steps, half_lives)
    return replace(recipe.ema, anneal_steps=max(1, round(recipe.ema.anneal_steps * steps / recipe.steps)))


def shortened(recipe: Config, steps: int) -> Config:
    """A recipe for a run of so many steps, at least 1: what follows the steps goes with them, as for a budget."""
    monitor = replace(recipe.monitor, warmup_steps=steps // 10)
    return replace(recipe, steps=steps, ema=fitted_decay(recipe, steps), monitor=monitor)


def vision_small() -> Config:
    """Pictures of 64 x 64: data2vec 2.0, 6 blocks of width 192 on 8 x 8 patches, each picture in 2 masked views.

    Departs from `vision2_base`:

    * 2 views, IN and LN on the targets, a decoder of 2 convolutions, all as in `vision2_tiny`, which was better by 7 to
      8 points than 1.0 at equal cost on pictures in 49 patches (quality.md); no prenet and no loss of the class token,
      as there: a loss of 0.1 made no difference. Batches of 16 pictures as there: 1.1 points better than 32 at nearly
      equal cost, one seed. The decoder has 96 channels, half of the width, as 2.0 on speech has.
    * 60 % of the patches are masked, each on its own, as in `vision2_tiny`: with 75 % in blocks of 3 x 3 the features
      of 49 patches were worse (measured.md).
    * Crops of 60 to 100 % of the area (ours: small pictures have less to lose; whole pictures were no better), flips,
      no jitter.
    * lr 3e-3: that of `vision2_tiny`, 8e-3, times the ratio of the widths, 64 / 192. Clipping at 3 as there.

    What was tried stands in docs/worth.md: runs of 1 to 3 CPU minutes on grey pictures of 28 x 28, judged on letters,
    which hardly tell these settings apart. Nothing was tried on 64 x 64, nor for an hour.

    Returns:
        The configuration.
    """
    steps = 16_000
    return Config(
        model=ModelConfig(
            embedding=VisionEmbedding(image_size=64, patch_size=8, positions="sincos"),
            transformer=TransformerConfig(
                dim=192, depth=6, heads=3, ffn_dim=768, norm_eps=1e-6, dropout=0.0, attention_dropout=0.0
            ),
            head=DecoderConfig(dim=96, layers=2, kernel=3, groups=6, input_dropout=0.0),
            target=TargetConfig(top_k=4, final_norm=("layer",)),
            teacher=TeacherConfig(averages="all"),
        ),
        mask=InverseBlockMask(ratio=0.6, block=1, adjust=0.0, views=2),
        inputs=VisionInputs(crop_scale=(0.6, 1.0), jitter=0.0),
        loader=LoaderConfig(batch_size=16),
        optim=OptimConfig(
            lr=3e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.05, clip_norm=3.0, warmup=0.1, last_lr=0.01
        ),
        ema=decay_of(steps),
        checkpoint=CheckpointConfig(every=500),
        log=LogConfig(every=100),
        monitor=MonitorConfig(warmup_steps=steps // 10),
        steps=steps,
    )


def speech_small() -> Config:
    """16 kHz speech as log-mel energies: data2vec 2.0, 6 blocks of width 192, each clip in 4 masked views.

    A model of spectrograms (`d2v_fast.modalities.spectrogram`) with one patch for each 20 ms, all 80 bands of two
    frames: a sequence, as `speech2_tiny` has it, with a linear map in place of the convolutions. After a CPU minute its
    features named words better than those of the waveform after nearly two. Every figure is of `words`, the development
    split of docs/worth.md, where all that was tried stands. Network and optimizer of `vision_small`; departs from it:

    * The energies of each band are normalised over the clip, which takes away what differs between voices and
      microphones: 500 steps fewer were as good as with one normalisation of all, though the random start is worse.
    * 65 % masked in spans of 5 patches, 100 ms, 4 views of a single clip, two convolutions of 7 patches in the decoder:
      as in `speech2_tiny`. Patches of 40 ms were worse.
    * Teacher and learning rate as there, 0.9995 to 0.9999 and 1.5e-3. With the decay of `decay_of` the features were
      worse by 5 (kNN) and 2 points (linear) after 1,500 steps, with that and lr 8e-4 by 9 and 3.
    * Warm-up over 30 % of the steps (ours: a half there). Clips of 0.5 to 4 s as there.
    * The student's bins are stretched by up to 10 %, the teacher's are not, so features have to be alike for other
      throats (ours): 1 to 2 points on `words`, 6 to 8 on `errands` with people in the corpus, one seed.

    Returns:
        The configuration.
    """
    steps = 80_000
    return Config(
        model=ModelConfig(
            embedding=SpectrogramEmbedding(patch=(2, 80), max_frames=400, warp=0.1),
            transformer=TransformerConfig(
                dim=192, depth=6, heads=3, ffn_dim=768, norm_eps=1e-6, dropout=0.0, attention_dropout=0.0
            ),
            head=DecoderConfig(dim=96, layers=2, kernel=7, groups=6, input_dropout=0.0),
            target=TargetConfig(top_k=4, final_norm=("layer",)),
            teacher=TeacherConfig(averages="all"),
        ),
        mask=FixedSpanMask(ratio=0.65, views=4),
        inputs=SpectrogramInputs(min_seconds=0.5, max_seconds=4.0, normalize="channel"),
        loader=LoaderConfig(batch_size=8, batch_seconds=2.0),
        optim=OptimConfig(
            lr=1.5e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.05, clip_norm=3.0, warmup=0.3, last_lr=0.01
        ),
        ema=EmaConfig(start=0.9995, end=0.9999, anneal_steps=steps),
        checkpoint=CheckpointConfig(every=2000),
        log=LogConfig(every=100),
        monitor=MonitorConfig(warmup_steps=steps // 10),
        steps=steps,
    )


def text_small() -> Config:
    """Text in 1,024 pieces: data2vec 1.0, 3 blocks of width 96 behind a convolution over the tokens.

    Departs from `text_base`; the trials, on the development questions, stand in docs/worth.md:

    * A convolution over 5 tokens before the blocks, as speech has. Without one, attention had not found out in some
      minutes which tokens are neighbours: whether two words have changed places stayed a matter of chance.
    * The teacher hardly moves (`SLOW`), and averages the embeddings too. One that follows as that of `vision_small`
      does made targets of few dimensions, which the position alone explains.
    * 40 % of the tokens are selected, one by one; 30 % of these stay as they are and 30 % become another token of the
      block, so the student has to judge by its neighbours whether a token is right.
    * 1,024 byte-level pieces learned from the corpus: small enough to be seen often in some megabytes, and still words.
      With bytes the tiny presets left features no better than those of a random start (outcomes.md).
    * Width 96, 3 blocks, heads of 32 channels, 16 blocks of 96 tokens: many cheap steps (ours). K = 2.
    * Pre-norm, layer-normalised outputs, loss scale 1 / sqrt(C), no dropout, clipping at 5, lr 3e-3 as in `text_tiny`.

    Returns:
        The configuration.
    """
    steps = 48_000
    return Config(
        model=ModelConfig(
            embedding=TextEmbedding(vocab_size=1024, max_length=96, position_depth=1),
            transformer=TransformerConfig(
                dim=96, depth=3, heads=3, ffn_dim=384, norm_first=True, dropout=0.0, attention_dropout=0.0
            ),
            head=HeadConfig(layers=2),
            target=TargetConfig(top_k=2, layer_norm=("layer",)),
            loss=LossConfig(beta=4.0),
            teacher=TeacherConfig(averages="all"),
        ),
        mask=TokenMask(probability=0.4, keep=0.3, random=0.3, random_from="sequence"),
        inputs=TextInputs(block_size=96),
        loader=LoaderConfig(batch_size=16),
        optim=OptimConfig(lr=3e-3, clip_norm=5.0, warmup=0.1, last_lr=0.01),
        ema=decay_of(steps, SLOW),
        checkpoint=CheckpointConfig(every=500),
        log=LogConfig(every=100),
        monitor=MonitorConfig(warmup_steps=steps // 10),
        steps=steps,
    )
