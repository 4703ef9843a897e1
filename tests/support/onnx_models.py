"""Fabricated ONNX models in the layouts that onnx-asr runs: each writes «а» for a low tone and «о» for a high one.

Their encoders are linear over the frames of the spectrogram (or of the waveform), so that the text follows from the
sound; silence is blank. They are for tests of loading, batching and word times, not of recognition.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ml.interfaces import SAMPLE_RATE, Waveform

Array = NDArray[np.generic]
Values = dict[str, tuple[int, list[object]]]
"""Names of a graph's inputs or outputs, with their types and shapes."""

FLOAT, FLOAT16, INT32, INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT32, TensorProto.INT64
LOW_HZ, HIGH_HZ = 300.0, 3000.0
VOCABULARY = ["\u2581а", "\u2581о", "<blk>"]
BLANK = 2


def tones(text: str, duration_s: float = 0.0) -> Waveform:
    """The sound of a text such as "а о о": for each letter a tone of 0.2 s after 0.2 s of faint noise.

    With `duration_s`, so long, by noise at the end.
    """
    count = int(0.2 * SAMPLE_RATE)
    loudness = 0.5 * np.sin(np.pi * np.arange(count) / count)  # without clicks at the ends
    pitches = [LOW_HZ if letter == "а" else HIGH_HZ for letter in text.split()]
    sounds = [loudness * np.sin(2 * np.pi * pitch / SAMPLE_RATE * np.arange(count)) for pitch in pitches]
    pause = np.zeros(count)
    sound = np.concatenate([pause, *(part for sound in sounds for part in (sound, pause))])
    sound = np.pad(sound, (0, max(0, int(duration_s * SAMPLE_RATE) - len(sound))))
    return (sound + np.random.default_rng(0).normal(0, 1e-3, len(sound))).astype(np.float32)


def minute(text: str) -> Waveform:
    """The letters of `text` spread over a minute."""
    letters = text.split()
    return np.concatenate([tones(letter, duration_s=60 / len(letters)) for letter in letters])


def gigaam_ctc(folder: Path, suffix: str = "") -> None:
    """GigaAM v3 with a CTC head: log-mel of 64 bins, a frame of 40 ms for each four of 10 ms."""
    nodes, constants = _letters("features", 4, 0.0, low=(0, 25), high=(25, 64))
    nodes += [_node("LogSoftmax", ["letters"], "log_softmax", axis=1), _transpose("log_softmax", "log_probs", 0, 2, 1)]
    inputs: Values = {"features": (FLOAT, ["B", 64, "T"]), "feature_lengths": (INT64, ["B"])}
    save(folder / f"v3_e2e_ctc{suffix}.onnx", nodes, inputs, {"log_probs": (FLOAT, ["B", "U", 3])}, constants)
    _vocabulary(folder / "v3_e2e_ctc_vocab.txt")


def gigaam_rnnt(folder: Path) -> None:
    """GigaAM v3 with a transducer: encoder, decoder and joint. It writes no letter twice running."""
    nodes, constants = _letters("audio_signal", 4, 0.0, low=(0, 25), high=(25, 64))
    nodes += [_node("Identity", ["letters"], "encoded"), *_frames("length", "lengths")]
    nodes.append(_node("Cast", ["lengths"], "encoded_len", to=INT32))
    save(
        folder / "v3_e2e_rnnt_encoder.onnx",
        nodes,
        {"audio_signal": (FLOAT, ["B", 64, "T"]), "length": (INT64, ["B"])},
        {"encoded": (FLOAT, ["B", 3, "U"]), "encoded_len": (INT32, ["B"])},
        {**constants, **_frame_constants(4)},
    )
    state: tuple[int, list[object]] = (FLOAT, [1, 1, 320])
    save(
        folder / "v3_e2e_rnnt_decoder.onnx",
        [_node("Gather", ["previous", "x"], "dec"), _node("Identity", ["h.1"], "h"), _node("Identity", ["c.1"], "c")],
        {"x": (INT64, [1, 1]), "h.1": state, "c.1": state},
        {"dec": (FLOAT, [1, 1, 3]), "h": state, "c": state},
        {"previous": _forbid_repeats()},
    )
    one: tuple[int, list[object]] = (FLOAT, [1, 3, 1])
    nodes = [_node("Sub", ["enc", "dec"], "joint")]
    save(folder / "v3_e2e_rnnt_joint.onnx", nodes, {"enc": one, "dec": one}, {"joint": one}, {})
    _vocabulary(folder / "v3_e2e_rnnt_vocab.txt")


def vosk(folder: Path) -> None:
    """Vosk's transducer: log-mel of 80 bins, files in folders of their own."""
    am = folder / "am-onnx"
    nodes, constants = _letters("transposed", 4, -2.0, low=(0, 32), high=(32, 80))
    nodes = [_transpose("x", "transposed", 0, 2, 1), *nodes, _transpose("letters", "encoder_out", 0, 2, 1)]
    save(
        am / "encoder.onnx",
        [*nodes, *_frames("x_lens", "encoder_out_lens")],
        {"x": (FLOAT, ["B", "T", 80]), "x_lens": (INT64, ["B"])},
        {"encoder_out": (FLOAT, ["B", "U", 3]), "encoder_out_lens": (INT64, ["B"])},
        {**constants, **_frame_constants(4)},
    )
    save(
        am / "decoder.onnx",
        [_node("Gather", ["y", "last"], "token", axis=1), _node("Gather", ["previous", "token"], "decoder_out")],
        {"y": (INT64, [1, 2])},
        {"decoder_out": (FLOAT, [1, 3])},
        {"last": np.array(1, np.int64), "previous": _forbid_repeats()},
    )
    one: tuple[int, list[object]] = (FLOAT, [1, 3])
    inputs: Values = {"encoder_out": one, "decoder_out": one}
    save(am / "joiner.onnx", [_node("Sub", ["encoder_out", "decoder_out"], "logit")], inputs, {"logit": one}, {})
    _vocabulary(folder / "lang" / "tokens.txt")


def parakeet_tdt(folder: Path) -> None:
    """NeMo's token-and-duration transducer: features normalised over the chunk, a frame of 80 ms for each eight."""
    nodes, constants = _letters("audio_signal", 8, 1.0, low=(4, 12), high=(50, 58), reduction="ReduceMean")
    save(
        folder / "encoder-model.onnx",
        [*nodes, _node("Identity", ["letters"], "outputs"), *_frames("length", "encoded_lengths")],
        {"audio_signal": (FLOAT, ["B", 80, "T"]), "length": (INT64, ["B"])},
        {"outputs": (FLOAT, ["B", 3, "U"]), "encoded_lengths": (INT64, ["B"])},
        {**constants, **_frame_constants(8)},
    )
    state: tuple[int, list[object]] = (FLOAT, [1, "B", 4])
    save(
        folder / "decoder_joint-model.onnx",
        [
            _node("Gather", ["previous", "targets"], "forbidden"),  # (1, 1, 3)
            _transpose("encoder_outputs", "encoding", 0, 2, 1),
            _node("Sub", ["encoding", "forbidden"], "tokens"),
            _node("Concat", ["tokens", "durations"], "outputs", axis=2),
            _node("Identity", ["input_states_1"], "output_states_1"),
            _node("Identity", ["input_states_2"], "output_states_2"),
        ],
        {
            "encoder_outputs": (FLOAT, [1, 3, 1]),
            "targets": (INT32, [1, 1]),
            "target_length": (INT32, [1]),
            "input_states_1": state,
            "input_states_2": state,
        },
        {"outputs": (FLOAT, [1, 1, 5]), "output_states_1": state, "output_states_2": state},
        {"previous": _forbid_repeats(), "durations": np.array([[[0, 1]]], np.float32)},  # always one frame further
    )
    _vocabulary(folder / "vocab.txt")
    _config(folder, model_type="nemo-conformer-tdt")


def t_one(folder: Path) -> None:
    """T-one: 8 kHz, pieces of 0.3 s with a state, ten frames in each."""
    integers = {"shape": [0, 10, 240], "zero": [0], "one": [1], "end": [239], "all": [240], "axis": [2]}
    constants: dict[str, Array] = {name: np.array(value, np.int64) for name, value in integers.items()}
    nodes = [
        _node("Cast", ["signal"], "samples", to=FLOAT),
        _node("Reshape", ["samples", "shape"], "frames"),  # (B, 10, 240)
        _node("Abs", ["frames"], "loudness"),
        _node("ReduceMean", ["loudness"], "level", axes=[2], keepdims=1),
        _node("Slice", ["frames", "one", "all", "axis"], "later"),
        _node("Slice", ["frames", "zero", "end", "axis"], "earlier"),
        _node("Sub", ["later", "earlier"], "change"),
        _node("Abs", ["change"], "changes"),
        _node("ReduceMean", ["changes"], "high", axes=[2], keepdims=1),  # a high tone changes from sample to sample
        _node("Mul", ["level", "two"], "twice"),
        _node("Sub", ["twice", "high"], "low"),
        _node("Sub", ["level", "level"], "nothing"),
        _node("Add", ["nothing", "threshold"], "blank"),
        _node("Concat", ["low", "high", "blank"], "letters", axis=2),
        _node("LogSoftmax", ["letters"], "logprobs", axis=2),
        _node("Identity", ["state"], "state_next"),
    ]
    state: tuple[int, list[object]] = (FLOAT16, ["B", 8])
    save(
        folder / "model.onnx",
        nodes,
        {"signal": (INT32, ["B", 2400, 1]), "state": state},
        {"logprobs": (FLOAT, ["B", 10, 3]), "state_next": state},
        {**constants, "two": np.array([2], np.float32), "threshold": np.array([500], np.float32)},
    )
    decoder, encoder = {"vocabulary": [" а", " о"]}, {"reduction_kernel_size": 3}
    _config(folder, pad_token_id=BLANK, decoder_params=decoder, encoder_params=encoder)


def whisper(folder: Path) -> None:
    """Whisper as optimum exports it: an encoder, and a decoder that writes "a" or "o" and ends."""
    nodes, constants = _letters("input_features", 2, -100.0, low=(0, 32), high=(32, 80))
    save(
        folder / "onnx" / "encoder_model.onnx",
        [*nodes, _transpose("letters", "last_hidden_state", 0, 2, 1)],
        {"input_features": (FLOAT, ["B", 80, 3000])},
        {"last_hidden_state": (FLOAT, ["B", 1500, 3])},
        constants,
    )
    specials = ["<|startoftranscript|>", "<|ru|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]
    tokens = {name: index for index, name in enumerate(["a", "o", "<|endoftext|>", *specials])}
    only = 100 * np.eye(len(tokens), dtype=np.float32)[:, None, None]  # (V, 1, 1, V)
    save(
        folder / "onnx" / "decoder_model_merged.onnx",
        [
            _node("ReduceMean", ["encoder_hidden_states"], "means", axes=[1], keepdims=1),  # (B, 1, 3)
            _node("Pad", ["means", "pads", "small"], "first"),
            _node("Shape", ["input_ids"], "shape"),
            _node("Gather", ["shape", "one"], "length"),
            _node("Equal", ["length", "one"], "is_detection"),  # nothing but <|startoftranscript|>
            _node("Equal", ["length", "four"], "is_first"),
            _node("Where", ["is_first", "first", "end"], "answer"),
            _node("Where", ["is_detection", "russian", "answer"], "logits"),
        ],
        {"input_ids": (INT64, ["B", "L"]), "encoder_hidden_states": (FLOAT, ["B", 1500, 3])},
        {"logits": (FLOAT, ["B", 1, len(tokens)])},
        {
            "pads": np.array([0, 0, 0, 0, 0, len(tokens) - 3], np.int64),
            "small": np.array(-1000, np.float32),
            "one": np.array(1, np.int64),
            "four": np.array(4, np.int64),
            "end": only[tokens["<|endoftext|>"]],
            "russian": only[tokens["<|ru|>"]],
        },
    )
    texts = {name: tokens[name] for name in tokens if name not in specials}
    (folder / "vocab.json").write_text(json.dumps(texts), encoding="utf-8")
    (folder / "added_tokens.json").write_text(json.dumps({name: tokens[name] for name in specials}), encoding="utf-8")
    _config(folder, model_type="whisper")


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "gigaam-v3-e2e-ctc": gigaam_ctc,
    "gigaam-v3-e2e-rnnt": gigaam_rnnt,
    "vosk": vosk,
    "nemo-conformer-tdt": parakeet_tdt,
    "t-one-ctc": t_one,
    "whisper": whisper,
}
"""Writers of a model into a folder, by onnx-asr's name of the kind."""


def save(
    path: Path, nodes: Sequence[onnx.NodeProto], inputs: Values, outputs: Values, constants: dict[str, Array]
) -> None:
    """Write a graph."""
    graph = helper.make_graph(
        list(nodes),
        "fabricated",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)


def _letters(
    features: str,
    stride: int,
    threshold: float,
    low: tuple[int, int],
    high: tuple[int, int],
    reduction: str = "ReduceMax",
) -> tuple[list[onnx.NodeProto], dict[str, Array]]:
    """Nodes from (B, bins, T) to "letters" (B, 3, T / stride): how much there is of low, of high, of neither.

    `low` and `high` are ranges of bins.
    """
    integers = {"bins": 1, "time": 2, "start": 0, "end": 2**31, "stride": stride}
    integers |= {"low_first": low[0], "low_end": low[1], "high_first": high[0], "high_end": high[1]}
    constants: dict[str, Array] = {name: np.array([value], np.int64) for name, value in integers.items()}
    constants["threshold"] = np.array([threshold], np.float32)
    nodes = [
        _node("Slice", [features, "low_first", "low_end", "bins"], "low_bins"),
        _node(reduction, ["low_bins"], "low", axes=[1], keepdims=1),
        _node("Slice", [features, "high_first", "high_end", "bins"], "high_bins"),
        _node(reduction, ["high_bins"], "high", axes=[1], keepdims=1),
        _node("Sub", ["low", "low"], "nothing"),
        _node("Add", ["nothing", "threshold"], "neither"),
        _node("Concat", ["low", "high", "neither"], "every", axis=1),
        _node("Slice", ["every", "start", "end", "time", "stride"], "letters"),
    ]
    return nodes, constants


def _frames(lengths: str, output: str) -> list[onnx.NodeProto]:
    """Nodes for (lengths - 1) / stride + 1."""
    return [
        _node("Sub", [lengths, "unit"], "one_less"),
        _node("Div", ["one_less", "per_frame"], "full"),
        _node("Add", ["full", "unit"], output),
    ]


def _frame_constants(stride: int) -> dict[str, Array]:
    return {"unit": np.array(1, np.int64), "per_frame": np.array(stride, np.int64)}


def _forbid_repeats() -> Array:
    """(3, 3): what is taken from each letter's weight after each letter."""
    return np.diag([100, 100, 0]).astype(np.float32)


def _node(kind: str, inputs: list[str], output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [output], **attributes)


def _transpose(source: str, output: str, *order: int) -> onnx.NodeProto:
    return _node("Transpose", [source], output, perm=list(order))


def _vocabulary(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{token} {index}" for index, token in enumerate(VOCABULARY)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _config(folder: Path, **values: object) -> None:
    (folder / "config.json").write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
