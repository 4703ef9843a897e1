"""The tree of errors that the ml layer raises.

    SpeechError
    ├── AudioError                    the audio itself is at fault
    │   ├── EmptyAudioError           EMPTY_AUDIO
    │   ├── UndecodableAudioError     UNDECODABLE_AUDIO
    │   ├── AudioTooLongError         AUDIO_TOO_LONG
    │   ├── InvalidSampleRateError    INVALID_SAMPLE_RATE
    │   └── TooManyChannelsError      TOO_MANY_CHANNELS
    ├── DecoderUnavailableError       DECODER_UNAVAILABLE
    ├── DecodingCancelledError        CANCELLED
    ├── ModelError
    │   ├── ModelNotFoundError        MODEL_NOT_FOUND
    │   ├── ModelFormatError          MODEL_FORMAT
    │   ├── PackageMissingError       PACKAGE_MISSING
    │   ├── DeviceUnavailableError    DEVICE_UNAVAILABLE
    │   └── ClusterUnavailableError   CLUSTER_UNAVAILABLE
    └── RecognitionError              RECOGNITION_FAILED
        └── EngineStoppedError        ENGINE_STOPPED

`str(error)` is one line in Russian for the client or the operator: it names what is wrong and what to do about it, and
contains neither a path of this machine nor the raw output of another program. Those belong in `__cause__` and in the
log.
"""

from typing import ClassVar


class SpeechError(Exception):
    """Base of every error of this layer; raise one of the leaves.

    `code` is stable and upper-case: clients and dashboards may match on it, the text may change.
    """

    code: ClassVar[str] = "SPEECH_ERROR"
    default_message: ClassVar[str] = ""

    def __init__(self, message: str = "") -> None:
        """`message` may be left out where the class has a default."""
        super().__init__(message or self.default_message)


class AudioError(SpeechError):
    """The audio is at fault: the same bytes give the same error again."""

    code = "AUDIO_ERROR"


class EmptyAudioError(AudioError):
    """The audio has no bytes."""

    code = "EMPTY_AUDIO"


class UndecodableAudioError(AudioError):
    """The bytes hold no audio that can be decoded, or the decoder crashed on them."""

    code = "UNDECODABLE_AUDIO"


class AudioTooLongError(AudioError):
    """The audio lasts longer than the limit on one recording."""

    code = "AUDIO_TOO_LONG"


class InvalidSampleRateError(AudioError):
    """The sample rate given for raw PCM is outside what can be resampled."""

    code = "INVALID_SAMPLE_RATE"


class TooManyChannelsError(AudioError):
    """The audio has more channels than can be transcribed separately."""

    code = "TOO_MANY_CHANNELS"


class DecoderUnavailableError(SpeechError):
    """There is no usable ffmpeg on this machine."""

    code = "DECODER_UNAVAILABLE"


class DecodingCancelledError(SpeechError):
    """The request was cancelled."""

    code = "CANCELLED"
    default_message = "Запрос отменён"


class ModelError(SpeechError):
    """The model cannot be loaded."""

    code = "MODEL_ERROR"


class ModelNotFoundError(ModelError):
    """There is no model under the given name or folder."""

    code = "MODEL_NOT_FOUND"


class ModelFormatError(ModelError):
    """The files exist but are not a model that this program can run: damaged, incomplete, or of another kind."""

    code = "MODEL_FORMAT"


class PackageMissingError(ModelError):
    """An optional package that the implementation needs is not installed."""

    code = "PACKAGE_MISSING"


class DeviceUnavailableError(ModelError):
    """This machine has no such device, or no such number format."""

    code = "DEVICE_UNAVAILABLE"


class ClusterUnavailableError(ModelError):
    """The cluster that is to run the model cannot be reached, or has no replica ready."""

    code = "CLUSTER_UNAVAILABLE"


class RecognitionError(SpeechError):
    """The model failed on a chunk of audio."""

    code = "RECOGNITION_FAILED"
    default_message = "Модель не смогла распознать фрагмент аудио."


class EngineStoppedError(RecognitionError):
    """The engine is closed or has failed: the chunk may be recognised elsewhere or later."""

    code = "ENGINE_STOPPED"
    default_message = "Распознавание остановлено: повторите запрос позже."
