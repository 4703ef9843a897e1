// Runs on the audio thread: turns samples into 16-bit PCM, a tenth of a second at a time.

class PcmProcessor extends AudioWorkletProcessor {
  constructor() {
    super();
    this._samples = new Int16Array(Math.round(sampleRate / 10));
    this._filled = 0;
    this._peak = 0;
  }

  process([[channel]]) {
    for (const sample of channel ?? []) {
      this._peak = Math.max(this._peak, Math.abs(sample));
      this._samples[this._filled++] = Math.max(-1, Math.min(1, sample)) * 32767;
      if (this._filled === this._samples.length) this._send();
    }
    return true;
  }

  _send() {
    const pcm = this._samples.buffer;
    this.port.postMessage({ pcm, peak: this._peak }, [pcm]);
    this._samples = new Int16Array(Math.round(sampleRate / 10));
    this._filled = 0;
    this._peak = 0;
  }
}

registerProcessor("pcm", PcmProcessor);
