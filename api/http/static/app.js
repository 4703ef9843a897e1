// The page: takes recordings in, sends a few at a time, shows a card for each.

import { Card } from "./card.js";
import { clock, explain, setLanguage, t, translate } from "./i18n.js";
import { Recorder } from "./recorder.js";
import { FileSource, Transcription } from "./transcription.js";

const AT_ONCE = 3;
const HEALTH_EVERY_MS = 10_000;
const find = (selector) => document.querySelector(selector);
const cards = [];
const queue = [];
let running = 0;
let recorder = null;

// --- Recordings ---

function options() {
  return {
    language: find("#language").value,
    prompt: find("#prompt").value,
    token: find("#token").value,
    channel_mode: find("#separate").checked ? "separate" : "mix",
  };
}

// Begins with `source`; `place` puts the card on the page.
function add(source, place) {
  const transcription = new Transcription(source, options);
  const card = new Card(transcription, { retry: again, forget, announce });
  cards.push(card);
  place(card.element);
  queue.push(transcription);
  sendNext();
}

function again(card, source) {
  add(source, (element) => card.element.replaceWith(element));
  cards.at(-1).element.querySelector(".cancel").focus();
  forget(card);
}

function forget(card) { cards.splice(cards.indexOf(card), 1); }

async function sendNext() {
  const place = queue.findIndex((waiting) => waiting.source.isLive || running < AT_ONCE); // a microphone cannot wait
  if (place < 0) return;
  const [transcription] = queue.splice(place, 1);
  if (transcription.hasEnded) return sendNext();
  running += 1;
  await transcription.run();
  running -= 1;
  sendNext();
}

// The newest stand first, those of one choice in its order.
function addFiles(files) {
  const older = find("#results").firstElementChild;
  for (const file of files) add(new FileSource(file), (element) => find("#results").insertBefore(element, older));
}

// --- The microphone ---

async function toggleRecording() {
  notice("");
  if (recorder) return stopRecording();
  const time = new Date().toLocaleTimeString(document.documentElement.lang, { hour: "2-digit", minute: "2-digit" });
  const opened = new Recorder(t("recording-name", { time }), showLevel);
  find("#record").disabled = true;
  try {
    await opened.open();
  } catch (error) {
    return notice(explain(error.code).join(" "));
  } finally {
    find("#record").disabled = false;
  }
  recorder = opened;
  opened.stopped.then(stopRecording); // the card's own button may end it too
  add(opened, (element) => find("#results").prepend(element));
  showRecording();
}

function stopRecording() {
  const stopped = recorder;
  recorder = null;
  stopped?.stop();
  showRecording();
  for (const card of cards) card.refresh();
}

function showRecording() {
  find("#record-text").textContent = t(recorder ? "record-stop" : "record");
  find("#record").classList.toggle("on", Boolean(recorder));
  find("#recording").hidden = !recorder;
}

function showLevel(peak) {
  find("#level").value = peak;
  find("#record-time").textContent = clock(recorder?.seconds ?? 0);
}

// --- The page itself ---

function announce(text) { find("#announcer").textContent = text; }

function notice(text) {
  find("#notice").textContent = text;
  find("#notice").hidden = !text;
}

async function showHealth() {
  let state = "away";
  try {
    state = (await fetch("/health", { cache: "no-store" })).ok ? "serving" : "loading";
  } catch { /* it is away */ }
  find("#server").dataset.state = state;
  if (find("#server-text").textContent !== t(`server-${state}`)) find("#server-text").textContent = t(`server-${state}`);
}

function speak(language) {
  localStorage.setItem("language", language);
  find("#page-language").value = setLanguage(language);
  document.title = t("title");
  translate(document);
  for (const card of cards) card.refresh(true);
  showRecording();
  showHealth();
}

function dress(theme) {
  localStorage.setItem("theme", theme);
  find("#theme").value = theme;
  document.documentElement.dataset.theme = theme;
}

function listenToDrops() {
  const drop = find("#drop");
  const over = (isOver) => {
    drop.classList.toggle("over", isOver);
    find(".drop-title").textContent = t(isOver ? "drop-now" : "drop-title");
  };
  let depth = 0; // of the elements that the pointer has entered
  document.addEventListener("dragenter", () => { depth += 1; over(true); });
  document.addEventListener("dragleave", () => { depth -= 1; if (!depth) over(false); });
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    over(false);
    addFiles(event.dataTransfer.files);
  });
}

dress(localStorage.getItem("theme") ?? "auto");
speak(localStorage.getItem("language") ?? navigator.language.slice(0, 2));
listenToDrops();
find("#choose").onclick = () => find("#files").click();
find("#files").onchange = (event) => { addFiles(event.target.files); event.target.value = ""; };
find("#record").onclick = toggleRecording;
find("#page-language").onchange = (event) => speak(event.target.value);
find("#theme").onchange = (event) => dress(event.target.value);
addEventListener("beforeunload", (event) => { if (cards.some((card) => card.isActive)) event.preventDefault(); });
setInterval(showHealth, HEALTH_EVERY_MS);
