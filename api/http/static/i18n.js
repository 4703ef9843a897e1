// The page's texts in Russian and English, and what each error means to the reader.

const TEXTS = {
  ru: {
    "title": "Расшифровка речи",
    "skip": "К содержанию",
    "tools": "Настройки страницы",
    "language-of-page": "Язык страницы",
    "theme": "Оформление",
    "theme-auto": "Как в системе",
    "theme-light": "Светлое",
    "theme-dark": "Тёмное",
    "docs": "Для программ",
    "intake": "Новая запись",
    "drop-title": "Перетащите сюда записи",
    "drop-now": "Отпустите, чтобы отправить",
    "drop-hint": "MP3, WAV, M4A, FLAC, OGG, AAC - одну или сразу несколько",
    "choose": "Выбрать файлы",
    "record": "Записать с микрофона",
    "record-stop": "Закончить запись",
    "recording-name": "Запись {time}",
    "level": "Громкость",
    "options": "Настройки распознавания",
    "speech-language": "Язык речи",
    "language-default": "Как настроено на сервере",
    "language-auto": "Определить самому",
    "language-ru": "Русский",
    "language-en": "Английский",
    "prompt": "Имена и термины, которые могут встретиться",
    "prompt-example": "Казань, Ильдар Маратович, эндопротез",
    "token": "Токен доступа, если сервер его требует",
    "separate": "Каналы по отдельности (например, две стороны телефонного разговора)",
    "results": "Записи",
    "cancel": "Отменить",
    "retry": "Повторить",
    "remove": "Убрать",
    "upload": "Отправка",
    "recognition": "Распознавание",
    "copy": "Скопировать текст",
    "copied": "Скопировано",
    "download": "Скачать",
    "download-as": "Скачать {format}",
    "hint": "Щёлкните слово, чтобы услышать его. С клавиатуры: стрелки и Enter.",
    "nothing": "Речи в записи не найдено.",
    "server-serving": "Сервер готов",
    "server-loading": "Сервер ещё не готов",
    "server-away": "Сервер недоступен",
    "state-waiting": "в очереди",
    "state-recording": "идёт запись",
    "state-uploading": "отправляется",
    "state-recognising": "распознаётся",
    "state-paused": "сервер занят, повтор через {seconds} с",
    "state-kept": "связь прервана, запись продолжается",
    "state-done": "готово",
    "state-failed": "не удалось",
    "state-cancelled": "отменено",
    "facts-done": "{duration} · слов: {words} · в {speed}× быстрее речи",
    "seconds-of": "{done} из {total}",
    "timeline": "Положение в записи",
    "timeline-value": "{time} из {total}",
    "play-from": "Слушать с {time}",
    "pause-of": "тишина {duration}",
    "channel": "Канал {number}",
    "status-TRANSCRIBED": "речь",
    "status-SILENCE": "тишина",
    "status-RETRIED": "со второй попытки: {count}",
    "status-FLAGGED": "сомнительно: {count}",
    "status-UNSURE": "слова под вопросом: {count}",
    "note-RETRIED": "распознано со второй попытки",
    "note-FLAGGED": "модель повторялась: проверьте на слух",
    "confidence": "уверенность {percent} %",
    "announce-done": "{name}: готово, слов: {words}",
    "announce-failed": "{name}: {title}",
    "announce-cancelled": "{name}: отменено",
    "leave": "Распознавание ещё идёт",
  },
  en: {
    "title": "Speech to text",
    "skip": "Skip to content",
    "tools": "Page settings",
    "language-of-page": "Page language",
    "theme": "Appearance",
    "theme-auto": "As the system",
    "theme-light": "Light",
    "theme-dark": "Dark",
    "docs": "For programs",
    "intake": "New recording",
    "drop-title": "Drop recordings here",
    "drop-now": "Release to send",
    "drop-hint": "MP3, WAV, M4A, FLAC, OGG, AAC - one or several at once",
    "choose": "Choose files",
    "record": "Record from the microphone",
    "record-stop": "Stop recording",
    "recording-name": "Recording {time}",
    "level": "Loudness",
    "options": "Recognition settings",
    "speech-language": "Spoken language",
    "language-default": "As set on the server",
    "language-auto": "Detect it",
    "language-ru": "Russian",
    "language-en": "English",
    "prompt": "Names and terms that may come up",
    "prompt-example": "Kazan, Ildar Maratovich, endoprosthesis",
    "token": "Access token, if the server asks for one",
    "separate": "Each channel by itself (such as the two sides of a telephone call)",
    "results": "Recordings",
    "cancel": "Cancel",
    "retry": "Try again",
    "remove": "Remove",
    "upload": "Upload",
    "recognition": "Recognition",
    "copy": "Copy text",
    "copied": "Copied",
    "download": "Download",
    "download-as": "Download {format}",
    "hint": "Click a word to hear it. By keyboard: arrows and Enter.",
    "nothing": "No speech was found in the recording.",
    "server-serving": "Server ready",
    "server-loading": "Server not ready yet",
    "server-away": "Server unreachable",
    "state-waiting": "waiting",
    "state-recording": "recording",
    "state-uploading": "uploading",
    "state-recognising": "recognising",
    "state-paused": "server busy, again in {seconds} s",
    "state-kept": "connection lost, still recording",
    "state-done": "done",
    "state-failed": "failed",
    "state-cancelled": "cancelled",
    "facts-done": "{duration} · {words} words · {speed}× faster than speech",
    "seconds-of": "{done} of {total}",
    "timeline": "Position in the recording",
    "timeline-value": "{time} of {total}",
    "play-from": "Play from {time}",
    "pause-of": "silence {duration}",
    "channel": "Channel {number}",
    "status-TRANSCRIBED": "speech",
    "status-SILENCE": "silence",
    "status-RETRIED": "second attempt: {count}",
    "status-FLAGGED": "doubtful: {count}",
    "status-UNSURE": "uncertain words: {count}",
    "note-RETRIED": "recognised at the second attempt",
    "note-FLAGGED": "the model repeated itself: check by ear",
    "confidence": "confidence {percent} %",
    "announce-done": "{name}: done, {words} words",
    "announce-failed": "{name}: {title}",
    "announce-cancelled": "{name}: cancelled",
    "leave": "Recognition is still under way",
  },
};

// What happened, and what to do. An error that is not here shows the server's own words.
const ERRORS = {
  ru: {
    UNSUPPORTED_FORMAT: ["Такой формат не поддерживается.", "Сохраните запись как MP3, WAV, M4A, FLAC, OGG или AAC и отправьте снова."],
    UNDECODABLE_AUDIO: ["Файл не читается как звук.", "Проверьте, что он открывается в проигрывателе, или сохраните его заново."],
    EMPTY_AUDIO: ["Файл пустой.", "Выберите другой или запишите снова."],
    AUDIO_TOO_LONG: ["Запись слишком длинная для этого сервера.", "Разрежьте её на части и отправьте их по отдельности."],
    UPLOAD_TOO_LARGE: ["Файл слишком велик для этого сервера.", "Сохраните его в MP3 или разрежьте на части."],
    INVALID_OPTIONS: ["Сервер не принял настройки распознавания.", "Измените их и повторите."],
    INVALID_FIELD: ["Сервер не принял настройки распознавания.", "Измените их и повторите."],
    invalid_api_key: ["Сервер не пускает без верного токена.", "Впишите токен в настройках распознавания и повторите."],
    OVERLOADED: ["Сервер перегружен.", "Повторите через несколько минут."],
    UNAVAILABLE: ["Сервер ещё не готов или останавливается.", "Повторите через минуту."],
    NO_SPACE: ["На сервере не хватает места.", "Повторите позже или сообщите тому, кто за него отвечает."],
    SLOW_UPLOAD: ["Связь слишком медленная: сервер не дождался файла.", "Повторите с лучшим соединением или сожмите запись в MP3."],
    CONNECTION_LOST: ["Связь с сервером прервалась.", "Проверьте сеть и сервер и нажмите «Повторить»: файл всё ещё здесь."],
    SERVER_AWAY: ["Сервер недоступен.", "Проверьте, что он запущен, и нажмите «Повторить»."],
    NOT_READY: ["Сервер ещё загружает модель.", "Подождите, пока вверху не появится «Сервер готов», и повторите."],
    FILE_UNREADABLE: ["Файл не читается с диска.", "Возможно, его перенесли или изменили: выберите его снова."],
    MICROPHONE_DENIED: ["Микрофон запрещён.", "Разрешите его этой странице в настройках браузера и повторите."],
    MICROPHONE_MISSING: ["Микрофон не найден.", "Подключите его и повторите."],
    MICROPHONE_INSECURE: ["Браузер даёт микрофон только страницам по https или с этого компьютера.", "Откройте страницу по https или с localhost."],
    UNKNOWN: ["Что-то пошло не так.", "Повторите; если не поможет, сообщите тому, кто отвечает за сервер."],
  },
  en: {
    UNSUPPORTED_FORMAT: ["This format is not supported.", "Save the recording as MP3, WAV, M4A, FLAC, OGG or AAC and send it again."],
    UNDECODABLE_AUDIO: ["The file cannot be read as sound.", "Check that it opens in a player, or save it anew."],
    EMPTY_AUDIO: ["The file is empty.", "Choose another one, or record again."],
    AUDIO_TOO_LONG: ["The recording is too long for this server.", "Cut it into parts and send them one by one."],
    UPLOAD_TOO_LARGE: ["The file is too large for this server.", "Save it as MP3, or cut it into parts."],
    INVALID_OPTIONS: ["The server did not accept the recognition settings.", "Change them and try again."],
    INVALID_FIELD: ["The server did not accept the recognition settings.", "Change them and try again."],
    invalid_api_key: ["The server asks for a valid token.", "Enter it in the recognition settings and try again."],
    OVERLOADED: ["The server is overloaded.", "Try again in a few minutes."],
    UNAVAILABLE: ["The server is not ready yet, or is stopping.", "Try again in a minute."],
    NO_SPACE: ["The server has run out of space.", "Try again later, or tell its operator."],
    SLOW_UPLOAD: ["The connection is too slow: the server gave up waiting for the file.", "Try a better connection, or compress the recording to MP3."],
    CONNECTION_LOST: ["The connection to the server was lost.", "Check the network and the server and press \u201cTry again\u201d: the file is still here."],
    SERVER_AWAY: ["The server cannot be reached.", "Check that it is running and press \u201cTry again\u201d."],
    NOT_READY: ["The server is still loading its model.", "Wait until \u201cServer ready\u201d shows above and try again."],
    FILE_UNREADABLE: ["The file cannot be read from the disk.", "It may have been moved or changed: choose it again."],
    MICROPHONE_DENIED: ["The microphone is blocked.", "Allow it for this page in the browser's settings and try again."],
    MICROPHONE_MISSING: ["No microphone was found.", "Connect one and try again."],
    MICROPHONE_INSECURE: ["Browsers give the microphone only to pages over https or from this computer.", "Open the page over https or from localhost."],
    UNKNOWN: ["Something went wrong.", "Try again; if that does not help, tell the server's operator."],
  },
};

let language = "ru";

export function setLanguage(wanted) {
  language = wanted in TEXTS ? wanted : "en";
  document.documentElement.lang = language;
  return language;
}

export function t(key, values = {}) {
  return TEXTS[language][key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

// [what happened, what to do]; `message` is the server's own.
export function explain(code, message) {
  const known = ERRORS[language][code];
  return known ?? [message || ERRORS[language].UNKNOWN[0], ERRORS[language].UNKNOWN[1]];
}

// Fills in the texts of everything below `root` that names one.
export function translate(root) {
  for (const element of root.querySelectorAll("[data-i18n]")) element.textContent = t(element.dataset.i18n);
  for (const element of root.querySelectorAll("[data-i18n-label]")) element.setAttribute("aria-label", t(element.dataset.i18nLabel));
  for (const element of root.querySelectorAll("[data-i18n-placeholder]")) element.placeholder = t(element.dataset.i18nPlaceholder);
}

export function number(value, digits = 0) {
  return value.toLocaleString(language, { maximumFractionDigits: digits });
}

export function clock(seconds) {
  const whole = Math.floor(Math.max(0, seconds));
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const tail = String(rest).padStart(2, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${tail}` : `${minutes}:${tail}`;
}

export function size(bytes) {
  const units = language === "ru" ? ["Б", "КБ", "МБ", "ГБ"] : ["B", "KB", "MB", "GB"];
  let unit = 0;
  while (bytes >= 1000 && unit < units.length - 1) { bytes /= 1000; unit += 1; }
  return `${number(bytes, bytes < 10 && unit ? 1 : 0)} ${units[unit]}`;
}
