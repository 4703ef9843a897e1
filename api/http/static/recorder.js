// The microphone as a source of raw PCM, which is sent while it is spoken and kept for listening and for a second try.

import { piecesOf } from "./transcription.js";

const SAMPLE_RATE = 16000;

export class Recorder {
  constructor(name, onLevel) {
    this.name = name;
    this.size = 0;
    this.isLive = true;
    this._onLevel = onLevel;
    this._pieces = [];
    this._wake = () => {};
    this.stopped = new Promise((resolve) => { this._stopped = resolve; });
  }

  // Throws { code } where there is no microphone to be had.
  async open() {
    if (!navigator.mediaDevices?.getUserMedia) throw { code: "MICROPHONE_INSECURE" };
    try {
      this._stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1 } });
    } catch (error) {
      throw { code: error.name === "NotFoundError" ? "MICROPHONE_MISSING" : "MICROPHONE_DENIED" };
    }
    await this._connect(SAMPLE_RATE).catch(() => this._connect()); // not every browser converts the rate
    this.start = { filename: "", format: "pcm", sample_rate: this._context.sampleRate };
  }

  get seconds() { return this.size / 2 / this._context.sampleRate; }

  stop() {
    if (!this.isLive) return;
    this.isLive = false;
    for (const track of this._stream.getTracks()) track.stop();
    this._context.close();
    this.start = { filename: "recording.wav" }; // a second try sends what was kept
    this._wake();
    this._stopped();
  }

  blob() {
    return new Blob([wavHeader(this.size, this._context.sampleRate), ...this._pieces], { type: "audio/wav" });
  }

  async *pieces() {
    if (!this.isLive) return yield* piecesOf(this.blob());
    for (let next = 0; this.isLive || next < this._pieces.length;) {
      if (next < this._pieces.length) yield this._pieces[next++];
      else await new Promise((resolve) => { this._wake = resolve; });
    }
  }

  async _connect(sampleRate) {
    const context = new AudioContext(sampleRate ? { sampleRate } : {});
    try {
      await context.audioWorklet.addModule("/static/recorder-worklet.js");
      const node = new AudioWorkletNode(context, "pcm", { numberOfOutputs: 0 });
      node.port.onmessage = ({ data }) => this._take(data);
      context.createMediaStreamSource(this._stream).connect(node);
      await context.resume();
    } catch (error) {
      context.close();
      throw error;
    }
    this._context = context;
  }

  _take({ pcm, peak }) {
    if (!this.isLive) return;
    this._pieces.push(pcm);
    this.size += pcm.byteLength;
    this._onLevel(peak);
    this._wake();
  }
}

function wavHeader(dataBytes, sampleRate) {
  const view = new DataView(new ArrayBuffer(44));
  const text = (offset, value) => [...value].forEach((sign, place) => view.setUint8(offset + place, sign.charCodeAt(0)));
  text(0, "RIFF"); view.setUint32(4, 36 + dataBytes, true); text(8, "WAVEfmt ");
  view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true);
  view.setUint32(24, sampleRate, true); view.setUint32(28, 2 * sampleRate, true);
  view.setUint16(32, 2, true); view.setUint16(34, 16, true);
  text(36, "data"); view.setUint32(40, dataBytes, true);
  return view.buffer;
}
