"""A model's name becomes a checked folder, or one clear line about what is wrong."""

import json
import logging
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file

from ml.borealis.checkpoint import BUNDLED_MODEL, Checkpoint, prepare_checkpoint
from ml.borealis.model import BorealisModel
from ml.errors import ModelFormatError, ModelNotFoundError
from resources.config import PROJECT_ROOT as PROJECT
from tests.support.checkpoints import HandMade

State = dict[str, torch.Tensor]


@pytest.fixture
def source(upstream: Path, tmp_path: Path) -> Path:
    """A copy of the published checkpoint to spoil."""
    return shutil.copytree(upstream, tmp_path / "source")


@pytest.fixture
def given(converted: Checkpoint, tmp_path: Path) -> Path:
    """A copy of the converted checkpoint to spoil."""
    return shutil.copytree(converted.path, tmp_path / "given")


def load(folder: Path) -> BorealisModel:
    return BorealisModel.load(folder, torch.device("cpu"), torch.float32)


def change_weights(source: Path, change: Callable[[State], object]) -> None:
    state = torch.load(source / "pytorch_model.bin", weights_only=True)
    change(state)
    torch.save(state, source / "pytorch_model.bin")


def refusal(source: Path, tmp_path: Path) -> str:
    with pytest.raises(ModelFormatError) as caught:
        prepare_checkpoint(str(source), tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)
    assert not list((tmp_path / "cache").glob("*/")), "nothing half-made is left"
    return str(caught.value)


def test_every_size_is_derived_from_the_tensors(converted: Checkpoint) -> None:
    config = json.loads((converted.path / "config.json").read_text(encoding="utf-8"))
    audio, text = config["audio_config"], config["text_config"]
    assert (audio["hidden_size"], audio["intermediate_size"]) == (128, 512)
    assert (audio["num_hidden_layers"], audio["num_attention_heads"]) == (2, 2)
    assert (audio["num_mel_bins"], audio["max_source_positions"]) == (128, 1500)
    assert (text["hidden_size"], text["intermediate_size"], text["num_hidden_layers"]) == (128, 192, 2)
    assert (text["num_attention_heads"], text["num_key_value_heads"], text["head_dim"]) == (2, 1, 64)
    assert text["rope_parameters"] == {"rope_type": "default", "rope_theta": 1e6}
    assert text["rms_norm_eps"] == 1e-6
    assert config["dtype"] == "float32"


def test_the_weights_are_written_unchanged_in_their_own_dtype(
    source: Path, hand_made: HandMade, tmp_path: Path
) -> None:
    change_weights(source, lambda state: state.update({key: value.bfloat16() for key, value in state.items()}))
    folder = prepare_checkpoint(str(source), tmp_path).path
    written = load_file(folder / "model.safetensors")
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["dtype"] == "bfloat16"
    assert len(written) == len(hand_made.state_dict())
    assert torch.equal(written["lm_head.weight"], hand_made.llm.lm_head.weight.bfloat16())
    assert torch.equal(written["model.multi_modal_projector.linear_1.weight"], hand_made.w_in.weight.bfloat16())


def test_the_end_and_padding_tokens_are_the_tokenizer_s(converted: Checkpoint, hand_made: HandMade) -> None:
    config = json.loads((converted.path / "generation_config.json").read_text(encoding="utf-8"))
    assert config["eos_token_id"] == hand_made.tokenizer.eos_token_id
    assert config["pad_token_id"] == hand_made.tokenizer.pad_token_id


def test_a_tied_head_may_be_left_out_upstream(source: Path, tmp_path: Path) -> None:
    change_weights(source, lambda state: state.pop("llm.lm_head.weight"))
    load(prepare_checkpoint(str(source), tmp_path / "cache").path)


def test_a_tokenizer_may_come_as_vocabulary_and_merges(source: Path, tmp_path: Path, model: BorealisModel) -> None:
    saved = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    merges = "\n".join(" ".join(pair) for pair in saved["model"]["merges"])
    (source / "vocab.json").write_text(json.dumps(saved["model"]["vocab"]), encoding="utf-8")
    (source / "merges.txt").write_text("#version: 0.2\n" + merges, encoding="utf-8")
    added = {token["content"]: token["id"] for token in saved["added_tokens"]}
    (source / "added_tokens.json").write_text(json.dumps(added), encoding="utf-8")
    special = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "additional_special_tokens": list(added)[3:]}
    (source / "special_tokens_map.json").write_text(json.dumps(special), encoding="utf-8")
    tokens = {str(number): {"content": token, "special": True} for token, number in added.items()}
    settings = {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": tokens, **special}
    (source / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (source / "tokenizer.json").unlink()
    assert load(prepare_checkpoint(str(source), tmp_path / "cache").path).prompt == model.prompt


def test_a_conversion_is_made_once(source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "BorealisModel")
    first = prepare_checkpoint(str(source), tmp_path / "cache")
    assert caplog.records
    caplog.clear()
    assert prepare_checkpoint(str(source), tmp_path / "cache") == first
    assert not caplog.records


def test_a_changed_source_is_converted_anew(source: Path, tmp_path: Path) -> None:
    first = prepare_checkpoint(str(source), tmp_path / "cache")
    change_weights(source, lambda state: state["adapter.w_out.weight"].zero_())
    second = prepare_checkpoint(str(source), tmp_path / "cache")
    assert first.path != second.path
    assert not load_file(second.path / "model.safetensors")["model.multi_modal_projector.linear_2.weight"].any()


def test_a_damaged_conversion_is_made_anew(source: Path, tmp_path: Path) -> None:
    weights = prepare_checkpoint(str(source), tmp_path / "cache").path / "model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    prepare_checkpoint(str(source), tmp_path / "cache")
    assert weights.read_bytes() == good


def test_what_a_dying_process_left_behind_is_cleared_away(source: Path, tmp_path: Path) -> None:
    done = prepare_checkpoint(str(source), tmp_path / "cache").path
    done.rename(done.with_name(done.name + ".partial"))
    assert prepare_checkpoint(str(source), tmp_path / "cache").path == done
    assert [path for path in (tmp_path / "cache").iterdir() if path.is_dir()] == [done]


def test_two_processes_at_once_convert_once_and_agree(source: Path, tmp_path: Path) -> None:
    code = (
        "import logging, sys, pathlib, ml.borealis.model\n"
        "from ml.borealis.checkpoint import prepare_checkpoint\n"
        "logging.basicConfig(level='INFO', format='%(name)s')\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "print(prepare_checkpoint(sys.argv[1], pathlib.Path(sys.argv[2])).path)"
    )
    command = [sys.executable, "-c", code, str(source), str(tmp_path / "cache")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    children = [subprocess.Popen(command, cwd=PROJECT, text=True, **pipes) for _ in range(2)]
    assert [child.stdout.readline() for child in children] == ["ready\n"] * 2
    for child in children:
        child.stdin.write("\n")
        child.stdin.flush()
    answers = [child.communicate() for child in children]
    assert [child.returncode for child in children] == [0, 0], answers
    assert answers[0][0] == answers[1][0]
    assert "".join(errors for _, errors in answers).count("BorealisModel") == 2  # one conversion: begun, done
    load(Path(answers[0][0].strip()))


def test_a_hostile_pickle_is_refused_before_any_of_it_runs(source: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class Hostile:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (canary,)

    torch.save({"encoder.conv1.weight": Hostile()}, source / "pytorch_model.bin")
    assert "отвергнут" in refusal(source, tmp_path)
    (source / "pytorch_model.bin").write_bytes(pickle.dumps(Hostile()))
    assert "отвергнут" in refusal(source, tmp_path)
    assert not canary.exists()
    pickle.loads(pickle.dumps(Hostile()))
    assert canary.exists(), "the pickle would have been dangerous"


def test_a_missing_tensor_is_named(source: Path, tmp_path: Path) -> None:
    change_weights(source, lambda state: state.pop("llm.model.layers.1.mlp.up_proj.weight"))
    assert "layers.1.mlp.up_proj.weight" in refusal(source, tmp_path)


def test_a_missing_first_tensor_is_named(source: Path, tmp_path: Path) -> None:
    change_weights(source, lambda state: state.pop("encoder.conv1.weight"))
    assert "audio_tower.conv1.weight" in refusal(source, tmp_path)


def test_a_tensor_of_the_wrong_shape_is_named(source: Path, tmp_path: Path) -> None:
    change_weights(source, lambda state: state.update({"adapter.w_out.weight": torch.zeros(128, 64)}))
    assert "linear_2.weight" in refusal(source, tmp_path)


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("encoder.conv1.weight", (128, 80, 3)),
        ("encoder.embed_positions.weight", (750, 128)),
        ("adapter.w_in.weight", (128, 256)),
        ("llm.model.layers.0.self_attn.k_proj.weight", (100, 128)),
        ("llm.model.embed_tokens.weight", (0, 128)),
        ("encoder.conv1.weight", (128,)),
    ],
)
def test_sizes_of_another_model_are_refused(source: Path, tmp_path: Path, key: str, shape: tuple[int, ...]) -> None:
    change_weights(source, lambda state: state.update({key: torch.zeros(shape)}))
    assert "не подходят к модели Borealis" in refusal(source, tmp_path)


def test_a_foreign_tensor_is_named(source: Path, tmp_path: Path) -> None:
    change_weights(source, lambda state: state.update({"vision.weight": torch.zeros(1)}))
    assert "vision.weight" in refusal(source, tmp_path)


def test_a_tensor_blown_up_by_strides_is_refused(source: Path, tmp_path: Path) -> None:
    huge = torch.zeros(1).expand(10**9, 128)
    change_weights(source, lambda state: state.update({"llm.model.embed_tokens.weight": huge}))
    assert "не словарь тензоров" in refusal(source, tmp_path)


def test_a_state_dict_that_is_no_dict_of_tensors_is_refused(source: Path, tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], source / "pytorch_model.bin")
    assert "не словарь тензоров" in refusal(source, tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "tokenizer.json", "config.json"])
@pytest.mark.parametrize("spoil", ["truncate", "empty", "remove", "noise"])
def test_a_damaged_upstream_file_is_refused_in_one_line(source: Path, tmp_path: Path, name: str, spoil: str) -> None:
    file = source / name
    content = {"truncate": file.read_bytes()[: file.stat().st_size // 2], "empty": b"", "noise": bytes(range(256)) * 9}
    if spoil == "remove":
        file.unlink()
    else:
        file.write_bytes(content[spoil])
    refusal(source, tmp_path)


def test_weights_whose_archive_lies_about_its_tensors_are_refused(source: Path, tmp_path: Path) -> None:
    file = source / "pytorch_model.bin"
    with zipfile.ZipFile(file) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content[: len(content) // 2] if "/data/" in name else content)
    refusal(source, tmp_path)


def test_a_tokenizer_larger_than_the_model_is_refused(source: Path, tmp_path: Path) -> None:
    def shrink(state: State) -> None:
        for key in ("llm.model.embed_tokens.weight", "llm.lm_head.weight"):
            state[key] = state[key][:100].clone()

    change_weights(source, shrink)
    assert "разных моделей" in refusal(source, tmp_path)


def test_a_model_of_another_kind_is_refused(source: Path, tmp_path: Path) -> None:
    (source / "config.json").write_text('{"model_type": "whisper"}', encoding="utf-8")
    assert "whisper" in refusal(source, tmp_path)


def test_a_cache_that_cannot_be_written_is_reported(source: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(ModelFormatError, match="MODEL_CACHE_DIR"):
        prepare_checkpoint(str(source), tmp_path / "cache")


def test_a_converted_folder_is_used_where_it_is(given: Path, tmp_path: Path) -> None:
    assert prepare_checkpoint(str(given), tmp_path / "cache") == Checkpoint(given, str(given), None)
    assert not (tmp_path / "cache").exists()


def test_a_converted_folder_with_a_wrong_checksum_is_refused(given: Path, tmp_path: Path) -> None:
    (given / "model.safetensors.sha256").write_text("0" * 64)
    assert "SHA-256" in refusal(given, tmp_path)


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.999])
def test_a_truncated_safetensors_file_is_refused(given: Path, tmp_path: Path, keep: float) -> None:
    (given / "model.safetensors.sha256").unlink()
    weights = given / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: int(weights.stat().st_size * keep)])
    with pytest.raises(ModelFormatError):
        load(prepare_checkpoint(str(given), tmp_path / "cache").path)


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("audio_config", "num_hidden_layers", 3),
        ("audio_config", "num_hidden_layers", 1),
        ("text_config", "vocab_size", 999),
        ("text_config", "model_type", "no such model"),
    ],
)
def test_a_config_that_does_not_fit_the_weights_is_refused(given: Path, part: str, key: str, value: object) -> None:
    config = json.loads((given / "config.json").read_text(encoding="utf-8"))
    config[part][key] = value
    (given / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ModelFormatError):
        load(given)


@pytest.mark.parametrize("name", ["no/such/folder", "./nowhere", "borealis", "C:\\models\\borealis", "nobody/nothing"])
def test_a_missing_model_is_told_with_the_bundled_one(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        prepare_checkpoint(name, tmp_path, local_files_only=True)
    assert name in str(caught.value)
    assert "MODEL_NAME" in str(caught.value)
    assert BUNDLED_MODEL in str(caught.value)


@pytest.fixture
def hub_cache(upstream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The published checkpoint in Hugging Face's cache, as its main branch; returns the commit."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--someone--borealis"
    shutil.copytree(upstream, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return commit


@pytest.mark.parametrize("pinned", [False, True])
def test_a_hub_name_is_found_in_the_cache_and_remembers_its_commit(
    hub_cache: str, pinned: bool, tmp_path: Path
) -> None:
    checkpoint = prepare_checkpoint(
        "someone/borealis", tmp_path / "cache", revision=hub_cache if pinned else None, local_files_only=True
    )
    assert checkpoint.revision == hub_cache
    assert checkpoint.path.parent == tmp_path / "cache"
    load(checkpoint.path)


def test_another_revision_is_not_the_one_in_the_cache(hub_cache: str, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="MODEL_LOCAL_FILES_ONLY"):
        prepare_checkpoint("someone/borealis", tmp_path / "cache", revision="f" * 40, local_files_only=True)
