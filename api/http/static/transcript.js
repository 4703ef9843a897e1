// The text: segments with their times, words that can be heard, doubtful ones marked.

import { clock, number, t } from "./i18n.js";
import { element, isUnsure } from "./timeline.js";

const SHOWN_SILENCE_S = 2;

export class Transcript {
  constructor(list, play) {
    this._list = list;
    this._play = play;
    this._drawn = 0;
    this._current = null;
    list.addEventListener("click", (event) => this._hear(event.target.closest("[data-start]")));
    list.addEventListener("keydown", (event) => this._key(event));
  }

  // Draws what is new; all of it where `isFinal`.
  draw(segments, isFinal) {
    if (isFinal) {
      this._list.replaceChildren();
      this._drawn = 0;
    }
    this._list.append(...segments.slice(this._drawn).map(segmentItem).filter(Boolean));
    this._drawn = segments.length;
    const words = this._words();
    if (words.length && !words.some((word) => word.tabIndex === 0)) words[0].tabIndex = 0; // one stop of the Tab key
  }

  // Marks what is being heard.
  follow(seconds) {
    const current = this._words().findLast((word) => word.dataset.start <= seconds && seconds < word.dataset.end) ?? null;
    if (current === this._current) return;
    this._current?.classList.remove("heard");
    current?.classList.add("heard");
    this._current = current;
  }

  _words() { return [...this._list.querySelectorAll(".word")]; }

  _hear(place) {
    if (place) this._play(Number(place.dataset.start));
  }

  _key(event) {
    if (!event.target.classList.contains("word")) return;
    const words = this._words();
    const place = words.indexOf(event.target);
    const moves = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: words.length - 1 };
    if (event.key === "Enter" || event.key === " ") this._hear(event.target);
    else if (event.key in moves) this._focus(words[moves[event.key]], event.target);
    else return;
    event.preventDefault();
  }

  _focus(word, from) {
    if (!word) return;
    from.tabIndex = -1;
    word.tabIndex = 0;
    word.focus();
  }
}

function segmentItem(segment) {
  const item = element("li", "segment");
  item.dataset.status = segment.status;
  if (segment.channel) item.dataset.channel = segment.channel;
  if (!segment.text) {
    const lengthS = segment.end_s - segment.start_s;
    if (segment.status !== "SILENCE" || lengthS < SHOWN_SILENCE_S || segment.channel) return null;
    item.classList.add("silence");
    item.textContent = t("pause-of", { duration: clock(lengthS) });
    return item;
  }
  const time = element("button", "time");
  time.type = "button";
  time.dataset.start = segment.start_s;
  time.textContent = clock(segment.start_s);
  time.setAttribute("aria-label", t("play-from", { time: clock(segment.start_s) }));
  const text = element("p", "text");
  text.append(...wordsOf(segment));
  item.append(time, text);
  if (segment.channel) text.prepend(note("channel", t("channel", { number: segment.channel })));
  if (segment.status === "RETRIED" || segment.status === "FLAGGED") text.append(note("doubt", t(`note-${segment.status}`)));
  return item;
}

// Where the service gives no words, the segment is one.
function wordsOf(segment) {
  const words = segment.words?.length ? segment.words : [segment];
  return words.flatMap((word) => {
    const place = element("span", "word");
    place.dataset.start = word.start_s;
    place.dataset.end = word.end_s;
    place.tabIndex = -1;
    place.setAttribute("role", "button");
    place.textContent = word.text;
    if (word.confidence !== undefined) place.title = t("confidence", { percent: number(100 * word.confidence) });
    place.classList.toggle("unsure", isUnsure(word));
    return [place, " "];
  });
}

function note(kind, text) {
  const made = element("span", `note ${kind}`);
  made.textContent = text;
  return made;
}
