"""The golden check: on the committed selection, on full files if there are any, and on damaged ones."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import check  # noqa: E402
import golden_case  # noqa: E402
import restate_second  # noqa: E402

SPEECH = HERE / "speech.npz"
FULL = sorted(Path(folder).glob("*.npz")) if (folder := os.environ.get("D2V_FAST_GOLDEN")) else []


def changed(tmp_path, change, source=SPEECH):
    arrays = dict(np.load(source))
    change(arrays)
    path = tmp_path / "changed.npz"
    np.savez(path, **arrays)
    return str(path)


def test_the_committed_selection_agrees(capsys):
    assert check.main([str(SPEECH)]) == 0
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if "tolerance" in line]
    assert len(lines) >= 25
    assert sum("differs (documented)" in line for line in lines) == 4  # inT and gn, target and loss each
    for quantity in ("layer features", "targets", "predictions", "loss", "gradients", "student after step 3"):
        assert any(line.strip().startswith(quantity) for line in lines)


@pytest.mark.parametrize("name", ["text", "vision"])
def test_the_other_selections_agree(name, capsys):
    assert check.main([str(HERE / f"{name}.npz")]) == 0
    printed = capsys.readouterr().out
    for quantity in ("layer features", "targets [ln+lnT]", "predictions", "gradients", "student after step 3"):
        assert f"  {quantity}" in printed


@pytest.mark.parametrize("name", ["speech2", "vision2", "text2"])
def test_the_selections_of_data2vec_2_agree(name, capsys):
    assert check.main([str(HERE / f"{name}.npz")]) == 0
    printed = capsys.readouterr().out
    quantities = ["layer features", "targets [ln+lnT]", "predictions", "gradients", "student after step 3"]
    for quantity in [*quantities, "spread of the targets", "teacher after step 3"]:
        assert f"  {quantity}" in printed
    assert ("loss, class_token" in printed) == (name == "vision2")


@pytest.mark.parametrize(
    ("name", "key", "index", "by", "line"),
    [
        ("speech2", "student0/modality_encoders.AUDIO.alibi_scale", (0, 0, 1, 0, 0), 0.1, "predictions"),
        ("speech2", "teacher0/modality_encoders.AUDIO.alibi_scale", (0, 0, 1, 0, 0), 0.1, "layer features"),
        ("speech2", "fp64_grad/modality_encoders.AUDIO.alibi_scale", (0, 0, 2, 0, 0), 1.0, "gradients"),
        ("speech2", "student3/modality_encoders.AUDIO.alibi_scale", (0, 0, 2, 0, 0), 1e-4, "student after step 3"),
        ("vision2", "student0/modality_encoders.IMAGE.extra_tokens", (0, 0, 5), 0.1, "loss"),
        ("vision2", "variant/in/loss_sum", (), 1e-2, "loss [in]"),
        ("vision2", "student0/modality_encoders.IMAGE.context_encoder.blocks.0.mlp.fc1.bias", (1,), 0.1, "predictions"),
        ("text2", "student0/modality_encoders.TEXT.decoder.proj.2.bias", (1,), 0.01, "predictions"),
        ("text2", "fwd/mask_indices", (0, 3), 1, "predictions"),
    ],
)
def test_a_wrong_number_of_data2vec_2_fails(tmp_path, capsys, name, key, index, by, line):
    def change(arrays):
        array = arrays[key].copy()
        array[index] += by
        if key == "fwd/mask_indices":  # another position of the same row instead
            hidden = arrays[key][0]
            array[0] = np.roll(hidden, 1)
        arrays[key] = array

    assert check.main([changed(tmp_path, change, HERE / f"{name}.npz")]) == 1
    failed = [text.strip() for text in capsys.readouterr().out.splitlines() if text.endswith("FAIL")]
    assert any(text.startswith((line + " ", line + ",")) for text in failed)


SCALES = {
    "student0/modality_encoders.AUDIO.alibi_scale": [1.3, -0.5, 0.9, 0.4],
    "teacher0/modality_encoders.AUDIO.alibi_scale": [1.1, -0.3, 1.4, 0.7],
}
"""Of a factor below 0 nothing is left, and no gradient; the moving average is of the factor itself."""


@pytest.mark.parametrize("name", ["speech2", "vision2", "text2"])
def test_the_restatement_is_the_reference(name):
    """So what it says of other options can be believed."""
    arrays = dict(np.load(HERE / f"{name}.npz"))
    found = restate_second.numbers(json.loads(str(arrays["meta_json"])), arrays)
    compared = 0
    # In two of the files softmax is of float32, also in the float64 numbers.
    for key in [key for key in found if key in arrays and key.startswith(("fp64", "steps/", "student3/", "teacher3/"))]:
        tolerance = 2e-5 if key.startswith(("student3", "teacher3")) else 1e-6 * max(1, np.abs(arrays[key]).max())
        assert np.abs(found[key].numpy() - arrays[key]).max() <= tolerance, key
        compared += 1
    assert compared > 60


@pytest.mark.parametrize(
    ("name", "changes", "shape"),
    [
        (
            "speech2",
            {"clone_batch": 3, "_m.prenet_depth": 2, "main_variant": "in+lnT"}
            | {f"={k}": v for k, v in SCALES.items()},
            {"padded": True},
        ),
        ("speech2", {"_m.mask_noise_std": 0.01}, {}),
        ("speech2", {}, {"ragged": True}),
        ("vision2", {"cls_loss": 0.0}, {}),
        (
            "vision2",
            {"clone_batch": 3, "_m.prenet_depth": 0, "end_of_block_targets": True, "_d.decoder_dim": 48},
            {},
        ),
        ("text2", {"clone_batch": 3, "average_top_k_layers": 4, "loss_beta": 4.0, "main_variant": "ln+inT"}, {}),
    ],
    ids=["prenet-padding-scales", "noise", "ragged", "no-class-token", "blocks-residual", "beta-k4"],
)
def test_other_options_are_read_and_agree(tmp_path, capsys, name, changes, shape):
    arrays = dict(np.load(HERE / f"{name}.npz"))
    for key in [key for key in changes if key.startswith("=")]:
        arrays[key[1:]] = np.array(changes.pop(key), np.float32).reshape(1, 1, -1, 1, 1)
    path = tmp_path / "made.npz"
    np.savez(path, **restate_second.made(arrays, changes, **shape))
    assert check.main([str(path)]) == 0, capsys.readouterr().out
    printed = capsys.readouterr().out
    for quantity in ("layer features", "decoder output", "predictions", "loss", "gradients", "student after step 3"):
        assert f"  {quantity}" in printed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_norm_first": True}, "layer_norm_first"),
        ({"_m.learned_alibi_scale_per_head": False}, "learned_alibi_scale_per_head"),
        ({"_m.mask_noise_std": 0.1}, "fwd/mask_noise"),
        ({"encoder_dropout": 0.1}, "encoder_dropout"),
        ({"supported_modality": "VIDEO"}, "video"),
    ],
)
def test_options_of_data2vec_2_that_the_library_lacks_end_with_2(tmp_path, capsys, changes, message):
    def change(arrays):
        meta = json.loads(str(arrays["meta_json"]))
        for name, value in changes.items():
            section, _, key = name.rpartition(".")
            (meta["config"][section] if section else meta["config"])[key] = value
        arrays["meta_json"] = np.array(json.dumps(meta))

    assert check.main([changed(tmp_path, change, HERE / "speech2.npz")]) == 2
    assert message in capsys.readouterr().out


@pytest.mark.skipif(not FULL, reason="the environment variable D2V_FAST_GOLDEN names no folder of full files")
@pytest.mark.parametrize("path", FULL, ids=lambda path: path.stem)
def test_full_files_agree(path):
    assert check.main([str(path)]) == (2 if "masks" in path.stem else 0)


@pytest.mark.parametrize(
    ("key", "index", "by", "line"),
    [
        ("fp64/x", (3, 4), 1e-5, "predictions"),
        ("fp64/y", (0, 0), 1e-5, "targets"),
        ("fwd/layer_results", (1, 2, 0, 3), 1e-5, "layer features"),
        ("fp64/loss_sum", (), 1e-2, "loss"),
        ("variant/inT/y", (0, 0), 1e-5, "targets [inT]"),
        ("student3/layer_norm.bias", (5,), 7e-5, "student after step 3"),
        ("teacher3/layers.4.fc2.bias", (5,), 7e-5, "teacher after step 3"),
        ("steps/ema_decay", (1,), 1e-9, "EMA decay of step 2"),
        ("steps/loss_sum", (2,), 1e-2, "loss of step 3"),
        ("student0/encoder.layers.2.fc1.bias", (0,), 1e-3, "predictions"),
    ],
)
def test_a_wrong_number_fails(tmp_path, capsys, key, index, by, line):
    def change(arrays):
        array = arrays[key].copy()
        array[index] += by
        arrays[key] = array

    assert check.main([changed(tmp_path, change)]) == 1
    failed = [text.strip() for text in capsys.readouterr().out.splitlines() if text.endswith("FAIL")]
    assert any(text.startswith((line + " ", line + ",")) for text in failed)


def padded(arrays, junk):
    """The text file with five columns of padding: nothing changes at the valid positions, so the numbers stay."""
    for key in ("batch/src_tokens", "batch/target_tokens"):
        arrays[key] = np.pad(arrays[key], ((0, 0), (0, 5)), constant_values=1)
    arrays["fwd/mask_indices"] = np.pad(arrays["fwd/mask_indices"], ((0, 0), (0, 5)))
    arrays["fwd/layer_results"] = np.pad(
        arrays["fwd/layer_results"], ((0, 0), (0, 5), (0, 0), (0, 0)), constant_values=junk
    )
    over_time = {"in", "bn", "inT"}  # statistics over the positions count the padding
    for key in [key for key in arrays if key.startswith("variant/") and over_time & set(key.split("/")[1].split("+"))]:
        del arrays[key]


def test_what_stands_at_padded_positions_is_not_compared(tmp_path, capsys):
    path = changed(tmp_path, lambda arrays: padded(arrays, 7.0), HERE / "text.npz")
    assert check.main([path]) == 0
    printed = capsys.readouterr().out
    assert "  layer features" in printed
    assert "  targets [ln+lnT]" in printed


def test_valid_positions_of_a_padded_file_are_compared(tmp_path, capsys):
    def change(arrays):
        padded(arrays, 7.0)
        arrays["fwd/layer_results"][0, 39, 2, 1] += 1e-4  # the last valid position

    assert check.main([changed(tmp_path, change, HERE / "text.npz")]) == 1
    failed = [line.split()[:2] for line in capsys.readouterr().out.splitlines() if line.endswith("FAIL")]
    assert ["layer", "features"] in failed


def test_nan_fails(tmp_path, capsys):
    def change(arrays):
        arrays["fp64/x"] = np.full_like(arrays["fp64/x"], np.nan)

    assert check.main([changed(tmp_path, change)]) == 1
    assert "predictions" in capsys.readouterr().out


def test_unknown_kinds_end_with_2(tmp_path, capsys):
    second, other = tmp_path / "second.npz", tmp_path / "other.npz"
    np.savez(second, meta_json="{}", **{"student0/modality_encoders.AUDIO.x": np.zeros(2)})
    np.savez(other, meta_json="{}", **{"student0/trunk.x": np.zeros(2)})
    text = tmp_path / "text.npz"
    text.write_text("no archive")
    for path, reason in [
        (second, "without 'config'"),
        (other, "trunk"),
        (HERE / "masks.npz", "meta_json"),
        (text, "npz archive"),
    ]:
        assert check.main([str(path)]) == 2
        printed = capsys.readouterr().out
        assert str(path) in printed
        assert reason in printed
    assert check.main([]) == 2


def test_an_option_that_the_library_lacks_ends_with_2(tmp_path, capsys):
    def change(arrays):
        arrays["meta_json"] = np.array(
            str(arrays["meta_json"]).replace('"extractor_mode": "layer_norm"', '"extractor_mode": "default"')
        )

    assert check.main([changed(tmp_path, change)]) == 2
    assert "extractor_mode" in capsys.readouterr().out


def test_norms_are_applied_in_the_order_of_the_reference():
    flags = ["layer_norm_target_layer", "batch_norm_target_layer", "instance_norm_targets", "layer_norm_targets"]
    fairseq = golden_case.variant_of(flags, speech=False, instance_first=False)
    assert fairseq.layer_norm == ("batch", "layer")
    assert fairseq.final_norm == ("layer", "instance")
    assert golden_case.variant_of(flags, speech=False, instance_first=True).final_norm == ("instance", "layer")
    with pytest.raises(golden_case.UnknownKind, match="other_norm"):
        golden_case.variant_of(["other_norm"], speech=True, instance_first=False)


def test_only_speech_without_a_norm_over_frames_has_the_batch_axis_fault():
    def bug(flags, speech=True):
        return golden_case.variant_of(flags, speech=speech, instance_first=False).bug

    assert bug(["instance_norm_targets"]) == "instance norm over the batch axis"
    assert bug(["layer_norm_target_layer", "instance_norm_targets"]) == "instance norm over the batch axis"
    assert bug(["instance_norm_target_layer", "instance_norm_targets"]) is None
    assert bug(["instance_norm_targets"], speech=False) is None
    assert bug(["group_norm_target_layer"]) == "group norm over the batch"


def test_expressions_of_convolutions_are_read_without_evaluating_code():
    assert golden_case.layers_of("[(32, 10, 5)] + [(32, 3, 2)] * 2") == ((32, 10, 5), (32, 3, 2), (32, 3, 2))
    with pytest.raises(ValueError, match="malformed"):
        golden_case.layers_of("[open('x')]")
