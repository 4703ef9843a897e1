// One recording on the page: its progress, player, timeline, text, and what can be done with them.

import { clock, explain, number, size, t, translate } from "./i18n.js";
import { Timeline } from "./timeline.js";
import { Transcript } from "./transcript.js";

const TYPES = { txt: "text/plain", srt: "application/x-subrip", vtt: "text/vtt", json: "application/json" };

export class Card {
  // `actions` are { retry(card, source), forget(card), announce(text) }.
  constructor(transcription, actions) {
    this._transcription = transcription;
    this._actions = actions;
    this.element = document.querySelector("#card").content.firstElementChild.cloneNode(true);
    translate(this.element);
    const find = (selector) => this.element.querySelector(selector);
    this._player = find(".player");
    this._timeline = new Timeline(find(".timeline"), find(".legend"), (seconds) => this._seek(seconds));
    this._transcript = new Transcript(find(".segments"), (seconds) => this._play(seconds));
    this._find = find;
    find(".name").textContent = transcription.source.name;
    find(".cancel").onclick = () => transcription.cancel();
    find(".retry").onclick = () => { this._retire(); actions.retry(this, transcription.source); };
    find(".remove").onclick = () => this._remove();
    find(".copy").onclick = () => this._copy();
    for (const button of this.element.querySelectorAll(".download")) button.onclick = () => this._download(button.dataset.format);
    this._player.ontimeupdate = () => this._follow();
    this._onChange = () => this.refresh();
    transcription.addEventListener("change", this._onChange);
    this.refresh();
  }

  get isActive() { return !this._transcription.hasEnded; }

  // Shows the state as it is, in the page's language.
  refresh(withTexts = false) {
    const state = this._transcription;
    if (withTexts) translate(this.element);
    this._showState(state);
    this._showProgress(state);
    this._showEnd(state, withTexts);
  }

  _retire() {
    this._transcription.removeEventListener("change", this._onChange);
    if (this._url) URL.revokeObjectURL(this._url);
  }

  _remove() {
    const next = this.element.nextElementSibling ?? this.element.previousElementSibling;
    this._retire();
    this.element.remove();
    this._actions.forget(this);
    (next?.querySelector("button:not([hidden])") ?? document.querySelector("#choose")).focus();
  }

  _showState(state) {
    const live = state.source.isLive && state.phase === "uploading";
    const shown = live ? "recording" : state.phase;
    this.element.dataset.phase = shown;
    this._find(".state").textContent = t(`state-${shown}`, { seconds: state.pauseS });
    this._find(".cancel").hidden = state.hasEnded;
    this._find(".retry").hidden = !["failed", "cancelled"].includes(state.phase);
    this._find(".remove").hidden = !state.hasEnded;
    this._find(".facts").textContent = state.response ? facts(state.response) : state.source.size ? size(state.source.size) : "";
  }

  _showProgress(state) {
    const bars = this._find(".bars");
    bars.hidden = state.hasEnded || state.phase === "waiting";
    if (bars.hidden) return;
    const total = state.source.size;
    this._find(".upload").closest("label").hidden = state.source.isLive;
    this._find(".upload").value = total ? Math.min(1, state.sentBytes / total) : 0;
    this._find(".upload-text").textContent = total ? `${number(Math.min(100, (100 * state.sentBytes) / total))} %` : "";
    const knownS = Math.max(this._lengthS(), state.decodedS);
    const recognition = this._find(".recognition");
    if (knownS) recognition.value = Math.min(1, state.doneS / knownS);
    else recognition.removeAttribute("value"); // under way, no saying how far
    this._find(".recognition-text").textContent = knownS ? t("seconds-of", { done: clock(state.doneS), total: clock(knownS) }) : "";
  }

  _showEnd(state, again) {
    const { response, error, phase, segments } = state;
    this._transcript.draw(segments, again || !segments.length || (phase === "done" && this._shown !== phase));
    if (!state.source.isLive && (segments.length || response)) this._showSound(state, again);
    this._find(".hint").hidden = !segments.some((segment) => segment.text);
    this._find(".nothing").hidden = phase !== "done" || segments.some((segment) => segment.text);
    this._find(".actions").hidden = phase !== "done";
    this._showWarnings(response?.warnings ?? []);
    const failure = this._find(".failure");
    failure.hidden = phase !== "failed";
    const [title, advice] = error ? explain(error.code, error.message) : ["", ""];
    if (phase === "failed") {
      this._find(".failure-title").textContent = title;
      this._find(".failure-advice").textContent = advice;
    }
    if (phase !== this._shown && state.hasEnded) this._announce(phase, title);
    this._shown = phase;
  }

  _showSound(state, again) {
    if (!this._url) {
      this._url = URL.createObjectURL(state.source.blob());
      this._player.src = this._url;
      this._player.onloadedmetadata = () => this.refresh();
    }
    this._find(".sound").hidden = false;
    const lengthS = state.response?.audio_duration || Math.max(this._lengthS(), state.decodedS);
    const drawn = `${state.phase} ${state.segments.length} ${lengthS}`;
    if (drawn !== this._drawn || again) this._timeline.draw(state.segments, lengthS);
    this._drawn = drawn;
  }

  _showWarnings(warnings) {
    const list = this._find(".warnings");
    list.hidden = !warnings.length;
    list.replaceChildren(...warnings.map((warning) => Object.assign(document.createElement("li"), { textContent: warning })));
  }

  _announce(phase, title) {
    const { source, response } = this._transcription;
    this._actions.announce(t(`announce-${phase}`, { name: source.name, words: response?.stats.word_count, title }));
  }

  _lengthS() { return Number.isFinite(this._player.duration) ? this._player.duration : 0; }

  _seek(seconds) {
    this._player.currentTime = seconds;
    this._follow();
  }

  _play(seconds) {
    this._seek(seconds);
    this._player.play().catch(() => {}); // the browser cannot play this format; the text is there all the same
  }

  _follow() {
    this._timeline.move(this._player.currentTime);
    this._transcript.follow(this._player.currentTime);
  }

  async _copy() {
    const button = this._find(".copy");
    await copy(this._transcription.response.transcript);
    button.textContent = t("copied");
    this._actions.announce(t("copied"));
    setTimeout(() => { button.textContent = t("copy"); }, 2000);
  }

  _download(format) {
    const { response, documents, source } = this._transcription;
    const text = format === "json" ? `${JSON.stringify(response, null, 2)}\n` : documents[format === "txt" ? "text" : format];
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: `${TYPES[format]};charset=utf-8` }));
    link.download = `${source.name.replace(/\.\w{1,5}$/, "")}.${format}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }
}

function facts(response) {
  const speed = number(response.stats.speed_factor, response.stats.speed_factor < 10 ? 1 : 0);
  return t("facts-done", { duration: clock(response.audio_duration), words: number(response.stats.word_count), speed });
}

async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const field = Object.assign(document.createElement("textarea"), { value: text }); // a page without https
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}
