"""The tiny model's decoder follows the words in the audio before any training."""

import torch

from ml.tiny_model.decoder_init import aim_decoder
from ml.tiny_model.network import AUDIO_TOKENS, Shape, Trainee, build_network
from ml.tiny_model.tokenizer import train_tokenizer, word_ids
from ml.tiny_model.windows import WORD_ROWS, Batch

WINDOWS, WORDS, EACH = 12, 25, 15  # windows, words in each, audio tokens a word


def worded_audio(trainee: Trainee, ids: list[int], end: int) -> tuple[torch.Tensor, Batch]:
    """Audio tokens that hold, each in its third, the next word and the last two; words occur twice and more."""
    numbers = torch.randint(1, 13, (WINDOWS, WORDS))
    padded = torch.nn.functional.pad(numbers, (1, 1))
    place = torch.arange(WORDS).repeat_interleave(EACH)
    rows = [padded[:, place + 1], *(padded[:, place + shift] for shift in (2, 1, 0))]
    words = torch.stack(rows)  # (4, B, 375): current, next, last, second
    table = trainee.network.get_input_embeddings().weight[trainee.classes]
    third = table.shape[1] // 3
    audio = torch.cat([table[row] @ torch.randn(table.shape[1], third) for row in words[1:]], dim=2)
    texts = torch.tensor([[ids[number - 1] for number in window] + [end] for window in numbers.tolist()])
    features = torch.zeros(WINDOWS, 128, 8 * AUDIO_TOKENS)
    return audio, Batch(features, torch.zeros(WINDOWS, 4 * AUDIO_TOKENS, dtype=torch.long), words, texts, 0)


@torch.no_grad()
def test_aimed_decoder_gives_the_words_of_the_audio_in_their_order() -> None:
    torch.manual_seed(4)
    tokenizer = train_tokenizer()
    trainee = Trainee(build_network(tokenizer, Shape()), tokenizer)
    audio, batch = worded_audio(trainee, word_ids(tokenizer), tokenizer.eos_token_id)
    assert len(batch.words) == WORD_ROWS and audio.shape[1] == AUDIO_TOKENS == WORDS * EACH
    before = trainee.decode(audio, batch.texts, 0).argmax(dim=-1)
    aim_decoder(trainee, audio, batch)
    after = trainee.decode(audio, batch.texts, 0).argmax(dim=-1)
    # the first two words have no two before them, by which the place in the audio is found
    right = [float((words == batch.texts)[:, 2:].float().mean()) for words in (before, after)]
    assert right[0] < 0.1 and right[1] > 0.75, right
