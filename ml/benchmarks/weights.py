"""The models the benchmark runs: a checkpoint's folder, or random weights of a given shape."""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, VoxtralConfig, VoxtralForConditionalGeneration
from transformers.utils.logging import disable_progress_bar

from ml.borealis.checkpoint import BUNDLED_MODEL, prepare_checkpoint
from ml.borealis.config import GenerationOptions
from ml.borealis.convert import EMBEDDINGS, HEAD_DIM, LM_HEAD, derive_config
from ml.borealis.model import BorealisModel
from ml.borealis.prompt import END_OF_AUDIO, START_OF_AUDIO, SYSTEM_TEXT, USER_TEXT, build_prompt
from ml.errors import ModelNotFoundError

ROOT = Path(__file__).resolve().parent.parent.parent
CACHE_DIR = ROOT / ".cache" / "models"
WEIGHT_SPREAD = 0.02
BABBLED_TOKENS = 3
NO_TOKEN = -1  # an id the model never gives
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", START_OF_AUDIO, END_OF_AUDIO)


@dataclass(frozen=True)
class Shape:
    """Sizes of a random model; heads are 64 wide, the encoder's feed-forward is four times its width."""

    encoder_width: int
    encoder_layers: int
    decoder_width: int
    decoder_layers: int
    decoder_ffn: int
    key_value_heads: int
    vocabulary: int


SHAPES = {
    "random-full": Shape(1280, 32, 896, 24, 4864, 2, 151_667),  # Borealis
    "random-tiny": Shape(192, 4, 192, 3, 512, 1, 3000),  # the bundled model
    "random-smallest": Shape(64, 1, 64, 1, 64, 1, 1000),  # for tests
}


def load_weights(
    name: str, device: torch.device, dtype: torch.dtype, max_new_tokens: int, ignore_eos: bool
) -> BorealisModel:
    """The model called `name`: "bundled", one of SHAPES, a folder or a hub name.

    With `ignore_eos` every chunk gets `max_new_tokens` tokens. Raises ModelError where there is no such model.
    """
    options = GenerationOptions(max_new_tokens=max_new_tokens)
    disable_progress_bar()
    if name in SHAPES:
        model = _random(SHAPES[name], device, dtype, options)
    else:
        path = prepare_checkpoint(str(ROOT / BUNDLED_MODEL) if name == "bundled" else name, CACHE_DIR).path
        model = BorealisModel.load(path, device, dtype, options)
    if ignore_eos:
        set_eos(model, None)
    return model


def set_eos(model: BorealisModel, token_id: int | None) -> None:
    """Makes `token_id` the end of every text; None means that texts end only where they are long enough."""
    model.eos_id = NO_TOKEN if token_id is None else token_id
    model.network.generation_config.eos_token_id = token_id


@contextmanager
def as_served(name: str, model: BorealisModel) -> Iterator[None]:
    """Makes `model`, loaded as `name`, end its texts where a server would, for the length of the block.

    Random weights get a few tokens only, too few to be taken for a repetition: a server would ask for it again.
    """
    before = model.eos_id, model.max_new_tokens
    set_eos(model, model.tokenizer.eos_token_id)
    if name in SHAPES:
        _set_length(model, BABBLED_TOKENS)
    try:
        yield
    finally:
        set_eos(model, None if before[0] == NO_TOKEN else before[0])
        _set_length(model, before[1])


def _set_length(model: BorealisModel, max_new_tokens: int) -> None:
    model.max_new_tokens = model.network.generation_config.max_new_tokens = max_new_tokens


@contextmanager
def checkpoint_folder(name: str, model: BorealisModel) -> Iterator[Path]:
    """A folder from which a server can load `model`, which was loaded as `name`.

    Raises ModelNotFoundError for random weights too large to be written for a test.
    """
    if name == "random-full":
        raise ModelNotFoundError("Случайные веса полного размера (2,3 ГБ) на диск не пишутся.")
    if name not in SHAPES:
        yield ROOT / BUNDLED_MODEL if name == "bundled" else Path(name)
        return
    with tempfile.TemporaryDirectory() as folder:
        state = model.network.state_dict()
        model.network.save_pretrained(folder, state_dict={**state, LM_HEAD: state[LM_HEAD].clone()})  # tied: shared
        model.tokenizer.save_pretrained(folder)
        yield Path(folder)


def _random(shape: Shape, device: torch.device, dtype: torch.dtype, options: GenerationOptions) -> BorealisModel:
    """A model made in place, on `device` and in `dtype`: nothing is read, written or converted."""
    tokenizer = _tokenizer()
    before = torch.get_default_dtype()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    torch.set_default_dtype(dtype)
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.device(device):
            torch.manual_seed(0)
            network = VoxtralForConditionalGeneration._from_config(
                _config(shape, tokenizer.pad_token_id), attn_implementation="sdpa"
            )
            for key, weight in network.named_parameters():
                if "norm" not in key:
                    weight.data.normal_(0, WEIGHT_SPREAD)
    finally:
        torch.set_default_dtype(before)
    network.lm_head.weight = network.get_input_embeddings().weight  # as in Borealis
    return BorealisModel(network.eval().requires_grad_(False), tokenizer, build_prompt(tokenizer), options)


def _config(shape: Shape, audio_token_id: int) -> VoxtralConfig:
    """The configuration of a checkpoint with these sizes, derived as for a real one."""

    def empty(*sizes: int) -> torch.Tensor:
        return torch.empty(sizes, device="meta")

    width, hidden = shape.encoder_width, shape.decoder_width
    tower, llm = "model.audio_tower.", "model.language_model."
    state = {
        f"{tower}conv1.weight": empty(width, 128, 3),
        f"{tower}embed_positions.weight": empty(1500, width),
        f"{tower}layers.0.fc1.weight": empty(4 * width, width),
        "model.multi_modal_projector.linear_1.weight": empty(hidden, 4 * width),
        EMBEDDINGS: empty(shape.vocabulary, hidden),
        f"{llm}layers.0.self_attn.q_proj.weight": empty(hidden, hidden),
        f"{llm}layers.0.self_attn.k_proj.weight": empty(shape.key_value_heads * HEAD_DIM, hidden),
        f"{llm}layers.0.mlp.gate_proj.weight": empty(shape.decoder_ffn, hidden),
    }
    for prefix, layers in ((tower, shape.encoder_layers), (llm, shape.decoder_layers)):
        state.update({f"{prefix}layers.{number}.counted": empty(1) for number in range(layers)})
    return derive_config(state, audio_token_id)


def _tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE that writes the prompt in about as many tokens as Qwen's does."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900, show_progress=False, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())
    )
    backend.train_from_iterator([SYSTEM_TEXT, USER_TEXT, "system\n", "user\n", "assistant\n"], trainer)
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHAT_TEMPLATE
    )
