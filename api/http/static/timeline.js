// The strip under the player: where there is speech, silence and doubt, in each channel, and where the player is.

import { clock, t } from "./i18n.js";

const STEP_S = 5;
const NOTABLE = ["RETRIED", "FLAGGED"];
const LOW_CONFIDENCE = 0.5;

export class Timeline {
  constructor(strip, legend, seek) {
    this._strip = strip;
    this._legend = legend;
    this._durationS = 0;
    this._positionS = 0;
    strip.addEventListener("click", (event) => {
      const box = strip.getBoundingClientRect();
      seek(((event.clientX - box.left) / box.width) * this._durationS);
    });
    strip.addEventListener("keydown", (event) => {
      const target = this._target(event.key);
      if (target === null) return;
      event.preventDefault();
      seek(Math.min(Math.max(target, 0), this._durationS));
    });
  }

  draw(segments, durationS) {
    this._durationS = durationS;
    const channels = [...new Set(segments.map((segment) => segment.channel))].sort((one, other) => one - other);
    this._cursor = element("div", "cursor");
    this._strip.replaceChildren(...channels.map((channel) => this._row(segments, channel)), this._cursor);
    this._strip.setAttribute("aria-label", t("timeline"));
    this._strip.setAttribute("aria-valuemax", durationS.toFixed(1));
    this._drawLegend(segments);
    this.move(this._positionS);
  }

  move(seconds) {
    this._positionS = seconds;
    this._strip.setAttribute("aria-valuenow", seconds.toFixed(1));
    this._strip.setAttribute("aria-valuetext", t("timeline-value", { time: clock(seconds), total: clock(this._durationS) }));
    if (this._cursor) this._cursor.style.left = percent(seconds, this._durationS);
  }

  _row(segments, channel) {
    const row = element("div", "row");
    if (channel) row.dataset.channel = channel;
    for (const segment of segments.filter((candidate) => candidate.channel === channel)) {
      const part = element("div", "part");
      part.dataset.status = segment.status;
      part.style.left = percent(segment.start_s, this._durationS);
      part.style.width = percent(segment.end_s - segment.start_s, this._durationS);
      part.title = `${clock(segment.start_s)} - ${clock(segment.end_s)}`;
      row.append(part);
    }
    return row;
  }

  _drawLegend(segments) {
    const counts = ["TRANSCRIBED", "SILENCE", ...NOTABLE].map((status) => [status, segments.filter((one) => one.status === status).length]);
    counts.push(["UNSURE", segments.flatMap((segment) => segment.words ?? []).filter(isUnsure).length]);
    this._legend.replaceChildren(...counts.filter(([, count]) => count).map(([status, count]) => {
      const entry = element("li");
      const sign = element("span", "sign");
      sign.dataset.status = status;
      entry.append(sign, t(`status-${status}`, { count }));
      return entry;
    }));
  }

  _target(key) {
    switch (key) {
      case "ArrowRight": case "ArrowUp": return this._positionS + STEP_S;
      case "ArrowLeft": case "ArrowDown": return this._positionS - STEP_S;
      case "PageUp": return this._positionS + 12 * STEP_S;
      case "PageDown": return this._positionS - 12 * STEP_S;
      case "Home": return 0;
      case "End": return this._durationS;
      default: return null;
    }
  }
}

// A word that the model itself was in doubt about.
export function isUnsure(word) { return word.confidence !== undefined && word.confidence < LOW_CONFIDENCE; }

export function element(name, kind) {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  return made;
}

function percent(seconds, durationS) {
  return `${durationS ? Math.min(100, (100 * seconds) / durationS) : 0}%`;
}
