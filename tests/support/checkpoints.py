"""Small random Borealis checkpoints in the upstream layout, and the same network composed by hand."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import nn
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from ml.borealis.prompt import END_OF_AUDIO, START_OF_AUDIO, SYSTEM_TEXT, USER_TEXT
from ml.interfaces import SAMPLE_RATE

D_MODEL = 128
HIDDEN = 128
DOWNSAMPLE = 4
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", START_OF_AUDIO, END_OF_AUDIO)
QWEN_SPLIT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE like Qwen2's, with a few dozen merges."""
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern=Regex(QWEN_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, show_progress=False, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())
    )
    backend.train_from_iterator([SYSTEM_TEXT, USER_TEXT], trainer)
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHAT_TEMPLATE
    )


@dataclass(frozen=True)
class HandMade:
    """Borealis composed of transformers' own parts, without Voxtral: what a conversion must equal."""

    encoder: WhisperEncoder
    w_in: nn.Linear
    w_out: nn.Linear
    llm: Qwen2ForCausalLM
    tokenizer: PreTrainedTokenizerFast

    @torch.inference_mode()
    def inputs(self, features: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, T, H) of the prompt with the audio of `features` (B, 128, 3000) inside it."""
        frames = self.encoder(features).last_hidden_state  # (B, 1500, D)
        stacked = frames.reshape(len(features), -1, DOWNSAMPLE * frames.shape[-1])  # (B, 375, 4 D)
        audio = self.w_out(nn.functional.gelu(self.w_in(stacked)))  # (B, 375, H)
        messages = [{"role": "system", "content": SYSTEM_TEXT}, {"role": "user", "content": USER_TEXT}]
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        before, after = text.split(END_OF_AUDIO)
        prefix, suffix = (self._embed(part).expand(len(features), -1, -1) for part in (before, END_OF_AUDIO + after))
        return torch.cat([prefix, audio, suffix], dim=1)

    @torch.inference_mode()
    def logits(self, features: torch.Tensor) -> torch.Tensor:
        return self.llm(inputs_embeds=self.inputs(features)).logits

    @torch.inference_mode()
    def greedy(self, features: torch.Tensor, new_tokens: int) -> list[int]:
        """Token ids for one item (1, 128, 3000), each from a full forward pass without any cache."""
        inputs, ids = self.inputs(features), []
        for _ in range(new_tokens):
            ids.append(int(self.llm(inputs_embeds=inputs).logits[0, -1].argmax()))
            if ids[-1] == self.tokenizer.eos_token_id:
                break
            inputs = torch.cat([inputs, self.llm.get_input_embeddings()(torch.tensor([ids[-1:]]))], dim=1)
        return ids

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The state dict as upstream pickles it."""
        parts = {"encoder": self.encoder, "adapter.w_in": self.w_in, "adapter.w_out": self.w_out, "llm": self.llm}
        return {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}

    def _embed(self, text: str) -> torch.Tensor:
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        return self.llm.get_input_embeddings()(torch.tensor([ids]))


def build_hand_made(seed: int = 0) -> HandMade:
    """Random weights, large enough for different sounds to give different tokens."""
    tokenizer = build_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        whisper = WhisperConfig(
            d_model=D_MODEL, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=DOWNSAMPLE * D_MODEL,
            num_mel_bins=128, max_source_positions=1500, dropout=0.0,
        )  # fmt: skip
        qwen = Qwen2Config(
            vocab_size=len(tokenizer), hidden_size=HIDDEN, intermediate_size=192, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1, rms_norm_eps=1e-6, tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6}, max_position_embeddings=32_768,
        )  # fmt: skip
        hand_made = HandMade(
            encoder=WhisperEncoder(whisper).eval(),
            w_in=nn.Linear(DOWNSAMPLE * D_MODEL, HIDDEN, bias=False),
            w_out=nn.Linear(HIDDEN, HIDDEN, bias=False),
            llm=Qwen2ForCausalLM(qwen).eval(),
            tokenizer=tokenizer,
        )
        with torch.no_grad():
            for key, tensor in hand_made.state_dict().items():
                if "norm" not in key and "embed_positions" not in key:
                    tensor.normal_(0, 0.12)
    return hand_made


def save_upstream(hand_made: HandMade, folder: Path) -> Path:
    """Write `hand_made` as the published checkpoint is laid out."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(hand_made.state_dict(), folder / "pytorch_model.bin")
    hand_made.tokenizer.save_pretrained(folder)
    config = {"model_type": "borealis", "architectures": ["BorealisForConditionalGeneration"], "downsample_factor": 4}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "preprocessor_config.json").write_text(json.dumps({"feature_size": 128}), encoding="utf-8")
    return folder


def tone(frequency_hz: float, duration_s: float) -> np.ndarray:
    """A tone over a little noise: different frequencies sound different to a random model."""
    seconds = np.arange(int(duration_s * SAMPLE_RATE)) / SAMPLE_RATE
    noise = np.random.default_rng(int(frequency_hz)).normal(0, 0.01, len(seconds))
    return (0.5 * np.sin(2 * np.pi * frequency_hz * seconds) + noise).astype(np.float32)
