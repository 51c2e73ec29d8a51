"""The pictures of worth.py: clothes, letters of fonts and emoji, all grey and 28 x 28, light on dark."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from outcomes_data import clothes
from PIL import Image, ImageDraw, ImageFont
from worth_parts import Part, Question, Worth, check, few, part, share

from d2v_fast.data import ArraySource

FONTS = Path("/usr/share/fonts")
EMOJI = FONTS / "truetype/noto/NotoColorEmoji.ttf"
EMOJI_NAMES = Path("/usr/share/unicode/emoji/emoji-test.txt")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
SIDE = 28


def pictures(quick: bool) -> Worth:
    """Pretraining on clothes, letters and emoji of the training parts; letters are for choices, the others held out."""
    (pixels, kinds), (other, wanted) = clothes()
    names = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
    worn = Question(
        "clothes",
        "the kind of garment, Fashion-MNIST: 10 classes, 5,000 of its training files to learn from, its test files",
        Part(list(pixels[:5000]), np.array([names[k] for k in kinds[:5000]])),
        Part(list(other), np.array([names[k] for k in wanted])),
        chosen_on="letters",
    )
    drawn = emoji()
    icons = Question(
        "emoji",
        "the Unicode group of an emoji, Noto Color Emoji: 9 classes; those that begin with one code point are together",
        part([one for one in drawn if share(one[2]) >= 0.4], grouped=True),
        part([one for one in drawn if share(one[2]) < 0.4], grouped=True),
        chosen_on="letters",
    )
    written = letters(24 if quick else None)
    signs = Question(
        "letters",
        "which letter, 26 classes in both cases, of fonts that are not in the corpus",
        part([one for one in written if share(one[2]) >= 0.4], grouped=True),
        part([one for one in written if share(one[2]) < 0.4], grouped=True),
    )
    unlabelled = [*pixels[: 300 if quick else 20_000], *icons.fit.inputs, *signs.fit.inputs]
    corpus = ArraySource("vision", unlabelled, [f"picture {i}" for i in range(len(unlabelled))])
    if quick:
        worn, icons, signs = (few(one, 120) for one in (worn, icons, signs))
    changes = {
        "model.embedding.image_size": SIDE,
        "model.embedding.patch_size": 7,
        "model.embedding.channels": 1,
        "inputs.mean": (0.3,),
        "inputs.std": (0.35,),
        "inputs.flip": 0.0,  # a mirrored letter is another one
    }
    made = Worth("vision-small", changes, corpus, (signs,), (worn, icons), {"pixels": _pixels})
    check(made, lambda picture: picture.tobytes())
    return made


def _pixels(fit: Part, judge: Part) -> tuple[np.ndarray, np.ndarray]:
    both = [np.stack([np.asarray(x).ravel() for x in one.inputs]).astype(np.float32) for one in (fit, judge)]
    return both[0], both[1]


def emoji() -> list[tuple[np.ndarray, str, str]]:
    """(picture, Unicode group, first code points) of each emoji without skin tones; of equal pictures the first."""
    for path, package in ((EMOJI, "fonts-noto-color-emoji"), (EMOJI_NAMES, "unicode-data")):
        if not path.is_file():
            raise SystemExit(f"{path} is not there: apt-get install {package}")
    font = ImageFont.truetype(str(EMOJI), 109)  # the only size that its bitmaps have
    found: dict[bytes, tuple[np.ndarray, str, str]] = {}
    group = ""
    for line in EMOJI_NAMES.read_text(encoding="utf-8").splitlines():
        if line.startswith("# group: "):
            group = line.removeprefix("# group: ")
        codes = line.partition(";")[0].split()
        tones = any(0x1F3FB <= int(code, 16) <= 0x1F3FF for code in codes if not line.startswith("#"))
        if line.startswith("#") or "; fully-qualified" not in line or tones or group == "Component":
            continue
        sheet = Image.new("RGB", (136, 128), "white")
        text = "".join(chr(int(code, 16)) for code in codes)
        ImageDraw.Draw(sheet).text((0, 0), text, font=font, embedded_color=True)
        grey = 255 - np.asarray(sheet.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX))
        if grey.any():
            key = " ".join(codes[: 2 if group == "Flags" else 1])
            found.setdefault(grey.tobytes(), (grey, group, f"emoji {key}"))
    return list(found.values())


def letters(most: int | None = None) -> list[tuple[np.ndarray, str, str]]:
    """(picture, letter, family) of each letter of each font that is installed; of equal pictures the first one.

    Args:
        most: Fonts that are read, if not all.
    """
    files = sorted(path for path in FONTS.rglob("*.[to]tf") if "emoji" not in path.name.lower())
    found: dict[bytes, tuple[np.ndarray, str, str]] = {}
    for path in files if most is None else files[:: max(1, len(files) // most)]:
        font = ImageFont.truetype(str(path), 22)
        family = str(font.getname()[0]).split()[0]
        if family in ("Standard", "D050000L"):  # of symbols
            continue
        for letter in LETTERS:
            left, top, right, bottom = font.getbbox(letter)
            sheet = Image.new("L", (SIDE, SIDE), 0)
            place = ((SIDE - right - left) / 2, (SIDE - bottom - top) / 2)
            ImageDraw.Draw(sheet).text(place, letter, font=font, fill=255)
            picture = np.asarray(sheet)
            if picture.any():
                found.setdefault(picture.tobytes(), (picture, letter.upper(), f"font {family}"))
    return list(found.values())
