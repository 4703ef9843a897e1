// One recording on its way to the service and back, over a WebSocket: what has been sent, recognised, answered.

const PIECE_BYTES = 256 * 1024;
const WINDOW_BYTES = 768 * 1024; // sent ahead of the service; within its window a close frame does not queue behind audio
const MAX_ATTEMPTS = 6;
const DOCUMENTS = ["text", "srt", "vtt"];
const BUSY = [429, 503];

// A file on disk, as often as it takes.
export class FileSource {
  constructor(file) {
    this.name = file.name;
    this.size = file.size;
    this.isLive = false;
    this.start = { filename: file.name };
    this._file = file;
  }

  blob() { return this._file; }

  pieces() { return piecesOf(this._file); }
}

export async function* piecesOf(blob) {
  for (let offset = 0; offset < blob.size; offset += PIECE_BYTES) {
    yield await blob.slice(offset, offset + PIECE_BYTES).arrayBuffer();
  }
}

// Dispatches "change" whenever something is new. `phase` is waiting, uploading, recognising, paused (the server is busy),
// kept (the connection is lost, and the microphone still records), or one of the ends: done, failed, cancelled.
export class Transcription extends EventTarget {
  constructor(source, options) {
    super();
    this.source = source;
    this.options = options;
    this._makeRoom = () => {};
    this._reset();
  }

  get hasEnded() { return ["done", "failed", "cancelled"].includes(this.phase); }

  async run() {
    for (let attempt = 1; ; attempt += 1) {
      const error = await this._attempt();
      if (!error || this.phase === "cancelled") return;
      if (this.source.isLive) await this._keep(error);
      else if (attempt < MAX_ATTEMPTS && BUSY.includes(error.status)) await this._pause(error.retry_after_s ?? 2);
      else return this._change({ phase: "failed", error });
      if (this.phase === "cancelled") return;
    }
  }

  cancel() {
    if (this.hasEnded) return;
    this._change({ phase: "cancelled" });
    this._socket?.close();
    this.source.stop?.();
  }

  _reset() {
    Object.assign(this, {
      phase: "waiting", sentBytes: 0, decodedS: 0, doneS: 0, segments: [], response: null, documents: null, error: null,
      _queuedBytes: 0, _isComplete: false,
    });
  }

  _change(values) {
    Object.assign(this, values);
    this.dispatchEvent(new Event("change"));
  }

  // What is said into the microphone meanwhile is not lost: all of it is sent once the recording ends.
  async _keep(error) {
    this._change({ phase: "kept", error });
    await this.source.stopped;
  }

  async _pause(seconds) {
    for (let left = Math.ceil(seconds); left > 0 && this.phase !== "cancelled"; left -= 1) {
      this._change({ phase: "paused", pauseS: left });
      await delay(1000);
    }
  }

  // Returns the error that ended it, null where it went well.
  _attempt() {
    this._reset();
    this._change({ phase: "uploading" });
    return new Promise((resolve) => {
      const address = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/v1/stream`;
      const socket = this._socket = new WebSocket(address);
      let error = null;
      let wasOpen = false;
      socket.onopen = () => {
        wasOpen = true;
        socket.send(JSON.stringify({ type: "start", word_times: true, documents: DOCUMENTS, ...this.options(), ...this.source.start }));
        this._upload(socket).catch(() => { error = { code: "FILE_UNREADABLE" }; socket.close(); });
      };
      socket.onmessage = (message) => { error = this._take(JSON.parse(message.data)) ?? error; };
      socket.onclose = async () => {
        this._makeRoom();
        if (this.hasEnded) return resolve(null);
        resolve(error ?? (wasOpen ? { code: "CONNECTION_LOST" } : await this._whyRefused()));
      };
    });
  }

  async _upload(socket) {
    for await (const piece of this.source.pieces()) {
      while (this._queuedBytes - this.sentBytes > WINDOW_BYTES && socket.readyState === WebSocket.OPEN) await this._room();
      if (socket.readyState !== WebSocket.OPEN) return;
      socket.send(piece);
      this._queuedBytes += piece.byteLength;
    }
    socket.send(JSON.stringify({ type: "end" }));
    this._isComplete = true;
    this._noteSent(this.sentBytes);
  }

  _noteSent(sentBytes) {
    const isSent = this._isComplete && sentBytes >= this._queuedBytes;
    if (!this.hasEnded) this._change({ sentBytes, phase: isSent ? "recognising" : this.phase });
    this._makeRoom();
  }

  _room() { return new Promise((resolve) => { this._makeRoom = resolve; }); }

  _take(message) {
    switch (message.type) {
      case "received":
        this._noteSent(message.bytes);
        break;
      case "segment":
        this.segments.push(message.segment);
        this._change({});
        break;
      case "progress":
        this._change({ decodedS: message.progress.decoded_s, doneS: message.progress.done_s });
        break;
      case "response":
        this._change({
          phase: "done", response: message.response, documents: message.documents, segments: message.response.segments,
          doneS: message.response.audio_duration, decodedS: message.response.audio_duration,
        });
        break;
      case "error":
        return message.error;
    }
    return null;
  }

  // A browser does not tell why a WebSocket was not opened.
  async _whyRefused() {
    try {
      const health = await fetch("/health", { cache: "no-store" });
      return health.ok ? { code: "CONNECTION_LOST" } : { code: "NOT_READY", status: 503, retry_after_s: 3 };
    } catch {
      return { code: "SERVER_AWAY" };
    }
  }
}

export function delay(ms) { return new Promise((resolve) => setTimeout(resolve, ms)); }
