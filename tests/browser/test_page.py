"""What a person does on the page, in a real browser against the real service with the bundled model."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from services.transcription.implementations import BorealisTranscriptionService
from tests.browser.page import Page, browser
from tests.conftest import sample
from tests.support.audio import voice, wav
from tests.support.client_server import ChecksumService
from tests.support.http_gateway import RunningGateway, gateway
from tests.support.ports import free_port
from tests.support.speech import TINY_MODEL
from tests.support.waiting import HANG_LIMIT_S

pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # selenium leaves sockets to the garbage collector
]
SPOKEN = sample("demo.txt").read_text(encoding="utf-8").strip()
TOKEN = "correct-horse"


@pytest.fixture(scope="module")
def service() -> Iterator[RunningGateway]:
    with gateway(BorealisTranscriptionService(), model_name=str(TINY_MODEL), model_batch_size=4) as running:
        yield running


@pytest.fixture
def page(service: RunningGateway, tmp_path: Path) -> Iterator[Page]:
    with browser(service.url, tmp_path) as page:
        page.open()
        yield page
        assert page.complaints() == []


def recording(folder: Path, name: str, audio_bytes: bytes) -> Path:
    path = folder / name
    path.write_bytes(audio_bytes)
    return path


def test_file_becomes_text_that_can_be_saved(page: Page) -> None:
    page.send(sample("demo.wav"))
    card = page.card("demo.wav").wait_for("done")
    assert card.text == SPOKEN and "слов: 19" in card.find(".facts").text
    for button in card.all(".download"):
        button.click()
    assert page.downloaded("demo.txt").strip() == SPOKEN
    assert re.match(r"1\n00:00:0\d,\d{3} --> ", page.downloaded("demo.srt"))  # the first word's own time
    assert page.downloaded("demo.vtt").startswith("WEBVTT\n")
    assert json.loads(page.downloaded("demo.json"))["transcript"] == SPOKEN


def test_copy_puts_the_text_on_the_clipboard(page: Page) -> None:
    permissions = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"], "origin": page.url}
    page.driver.execute_cdp_cmd("Browser.grantPermissions", permissions)
    page.send(sample("demo.wav"))
    card = page.card("demo.wav").wait_for("done")
    card.find(".copy").click()
    page.wait(lambda _driver: card.find(".copy").text == "Скопировано")
    read = "const done = arguments[0]; navigator.clipboard.readText().then(done)"
    assert page.driver.execute_async_script(read) == SPOKEN


def test_two_at_once_come_out_each_with_its_own(page: Page) -> None:
    page.send(sample("demo.wav"), sample("recording-3min.mp3"))
    long = page.card("recording-3min.mp3").wait_for("done")
    assert page.card("demo.wav").wait_for("done").text == SPOKEN
    assert len(long.all(".segment")) > 3 and long.text != SPOKEN
    names = [card.text.splitlines()[0] for card in page.all(".card")]
    assert names == ["demo.wav", "recording-3min.mp3"]


def test_broken_file_says_what_to_do(page: Page, tmp_path: Path) -> None:
    page.send(recording(tmp_path, "broken.mp3", b"no sound at all" * 1000))
    card = page.card("broken.mp3").wait_for("failed")
    failure = card.find(".failure")
    assert failure.get_attribute("role") == "alert"
    assert "не читается как звук" in failure.text and "проигрывател" in failure.text
    assert card.find(".retry").is_displayed() and not card.find(".actions").is_displayed()
    page.send(sample("demo.wav"))
    assert page.card("demo.wav").wait_for("done").text == SPOKEN


def test_name_of_a_file_is_shown_as_it_is(page: Page, tmp_path: Path) -> None:
    name = "<b onclick=alert(1)>.wav"
    page.send(recording(tmp_path, name, sample("demo.wav").read_bytes()))
    assert page.card(name).wait_for("done").text == SPOKEN


def test_drop_takes_files_as_the_button_does(page: Page) -> None:
    drop = """
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(arguments[0])], "dropped.wav"));
        document.querySelector("#drop").dispatchEvent(
            new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer: data }));
    """
    page.driver.execute_script(drop, list(sample("demo.wav").read_bytes()))
    assert page.card("dropped.wav").wait_for("done").text == SPOKEN


def test_microphone_is_recognised_and_can_be_heard_again(service: RunningGateway, tmp_path: Path) -> None:
    with browser(service.url, tmp_path, microphone=sample("demo.wav")) as page:
        page.open()
        page.find("#record").click()
        page.wait(lambda _driver: page.find("#record-time").text >= "0:12")
        page.find("#record").click()
        card = page.card(page.find(".card .name").text).wait_for("done")
        assert card.text == SPOKEN
        duration_s = page.driver.execute_script("return arguments[0].duration", card.find(".player"))
        assert duration_s == pytest.approx(12.5, abs=3)
        assert not page.complaints()


def test_cancelled_upload_ends_the_call(tmp_path: Path) -> None:
    held = ChecksumService()
    held.may_answer.clear()
    with gateway(held) as running, browser(running.url, tmp_path) as page:
        page.open()
        page.send(recording(tmp_path, "long.wav", wav(voice(60)) * 20))
        card = page.card("long.wav").wait_for("uploading")
        assert held.asked.wait(HANG_LIMIT_S)
        card.find(".cancel").click()
        assert card.wait_for("cancelled").find(".retry").is_displayed()
        assert held.saw_cancellation.wait(HANG_LIMIT_S)
        held.may_answer.set()
        card.find(".retry").click()
        assert page.card("long.wav").wait_for("done")


def test_server_that_stops_meanwhile_is_told_and_can_be_tried_again(tmp_path: Path) -> None:
    held, port = ChecksumService(), free_port()
    held.may_answer.clear()
    with gateway(held, http_port=port) as running, browser(running.url, tmp_path) as page:
        page.open()
        page.send(recording(tmp_path, "a.wav", wav(voice(2))))
        card = page.card("a.wav")
        assert held.asked.wait(HANG_LIMIT_S)
        running.http.stop(0)
        card.wait_for("failed")
        assert "Связь с сервером прервалась" in card.find(".failure").text
        card.find(".retry").click()
        card = page.card("a.wav").wait_for("failed")
        assert "Сервер недоступен" in card.find(".failure").text
        with gateway(http_port=port):
            card.find(".retry").click()
            assert page.card("a.wav").wait_for("done").text.startswith("32000:")


def test_recording_goes_on_while_the_server_is_away(tmp_path: Path) -> None:
    port = free_port()
    with browser(f"http://127.0.0.1:{port}", tmp_path, microphone=sample("demo.wav")) as page:
        with gateway(http_port=port) as running:
            page.open()
            page.find("#record").click()
            card = page.card(page.wait(lambda _driver: page.find(".card .name").text)).wait_for("recording")
            running.http.stop(0)
            card.wait_for("kept")
        with gateway(http_port=port):
            page.wait(lambda _driver: page.find("#record-time").text >= "0:02")
            page.find("#record").click()
            assert card.wait_for("done").text


def test_token_is_asked_for_and_tried_again(tmp_path: Path) -> None:
    hashes = (hashlib.sha256(TOKEN.encode()).hexdigest(),)
    with gateway(auth_token_hashes=hashes) as running, browser(running.url, tmp_path) as page:
        page.open()
        page.send(recording(tmp_path, "a.wav", wav(voice(0.5))))
        card = page.card("a.wav").wait_for("failed")
        assert "Впишите токен" in card.find(".failure").text
        page.find(".options summary").click()
        page.find("#token").send_keys(TOKEN)
        card.find(".retry").click()
        assert page.card("a.wav").wait_for("done").text.startswith("8000:")


def test_text_appears_while_the_rest_is_recognised(tmp_path: Path) -> None:
    class OneByOne(ChecksumService):
        def recognise(self, chunks, cancelled, options):  # type: ignore[no-untyped-def]
            for number, completion in enumerate(super().recognise(chunks, cancelled, options)):
                if number:
                    self.may_answer.wait(HANG_LIMIT_S)
                yield completion
                self.may_answer.clear()

    slow = OneByOne()
    silence = wav(voice(20))[44:], bytes(64_000), wav(voice(20))[44:]
    with gateway(slow) as running, browser(running.url, tmp_path) as page:
        page.open()
        page.send(recording(tmp_path, "two.wav", wav(voice(42))[:44] + b"".join(silence)))
        card = page.card("two.wav")
        page.wait(lambda _driver: len(card.all(".segment .text")) == 1)
        assert card.phase in ("uploading", "recognising")
        slow.may_answer.set()
        card.wait_for("done")
        assert len(card.all(".segment .text")) == 2


def test_click_on_the_text_or_the_timeline_is_heard_from_there(page: Page) -> None:
    page.send(sample("recording-3min.mp3"))
    card = page.card("recording-3min.mp3").wait_for("done")
    third = card.all(".segment .time")[2]
    start_s = float(third.get_attribute("data-start") or "")
    third.click()
    page.wait(lambda _driver: card.position_s > start_s)
    assert card.position_s < start_s + 10
    timeline = card.find(".timeline")
    ActionChains(page.driver).move_to_element(timeline).click().perform()  # its middle
    page.wait(lambda _driver: 70 < card.position_s < 100)
    assert card.all(".word.heard")


def test_everything_can_be_done_from_the_keyboard(page: Page) -> None:
    page.send(sample("recording-3min.mp3"))
    card = page.card("recording-3min.mp3").wait_for("done")
    timeline = card.find(".timeline")
    timeline.send_keys(Keys.HOME)
    timeline.send_keys(Keys.ARROW_RIGHT)
    page.wait(lambda _driver: card.position_s >= 5)
    assert timeline.get_attribute("aria-valuetext") == "0:05 из 2:50"
    words = card.all(".word")
    assert [word.get_attribute("tabindex") for word in words].count("0") == 1
    words[0].send_keys(Keys.ARROW_RIGHT)
    moved = page.driver.switch_to.active_element
    assert moved == words[1]
    moved.send_keys(Keys.ENTER)
    start_s = float(words[1].get_attribute("data-start") or "")
    page.wait(lambda _driver: card.position_s >= start_s)


def test_whatever_can_be_used_has_a_name_for_a_screen_reader(page: Page) -> None:
    page.send(sample("demo.wav"))
    page.card("demo.wav").wait_for("done")
    page.find(".options summary").click()
    tree = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    used = {"button", "link", "slider", "textbox", "combobox", "checkbox", "progressbar", "meter"}
    ours = [node for node in tree if not node["ignored"] and node["role"]["value"] in used]
    assert len(ours) > 10
    assert [node for node in ours if not node.get("name", {}).get("value")] == []


def test_page_speaks_two_languages_and_keeps_the_choice(page: Page) -> None:
    page.send(sample("demo.wav"))
    card = page.card("demo.wav").wait_for("done")
    page.find("#page-language option[value=en]").click()
    assert card.find(".state").text == "done" and page.driver.title == "Speech to text"
    assert card.find(".copy").text == "Copy text" and card.text == SPOKEN
    page.driver.refresh()
    assert page.find("#choose").text == "Choose files"
    assert page.find("html").get_attribute("lang") == "en"


def test_dark_and_light_differ_and_both_can_be_read(page: Page) -> None:
    contrasts = {}
    for theme in ("light", "dark"):
        page.find(f"#theme option[value={theme}]").click()
        colours = "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"
        ink, ground = (luminance(colour) for colour in page.driver.execute_script(colours))
        contrasts[theme] = (max(ink, ground) + 0.05) / (min(ink, ground) + 0.05)
        assert (ground < ink) is (theme == "dark")
    assert min(contrasts.values()) > 7  # WCAG AAA


def luminance(colour: str) -> float:
    """Relative luminance as WCAG defines it, of rgb(r, g, b)."""
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("width", [320, 390, 768])
def test_narrow_screens_need_no_scrolling_sideways(page: Page, width: int) -> None:
    screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    page.send(sample("demo.wav"))
    page.card("demo.wav").wait_for("done")
    assert page.driver.execute_script("return document.documentElement.scrollWidth") <= width


def test_page_asks_for_nothing_elsewhere(page: Page) -> None:
    page.send(sample("demo.wav"))
    page.card("demo.wav").wait_for("done")
    page.driver.get(page.url + "/docs")
    page.wait(lambda _driver: page.all(".opblock"))
    asked = [address for address in page.addresses() if address.startswith(("http", "ws"))]
    own = (page.url + "/", page.url.replace("http", "ws") + "/")
    assert any(address.startswith(own[1]) for address in asked)
    assert [address for address in asked if not address.startswith(own)] == []


def test_state_of_the_server_is_shown(tmp_path: Path) -> None:
    with gateway() as running, browser(running.url, tmp_path) as page:
        page.open()
        page.wait(lambda _driver: page.find("#server-text").text == "Сервер готов")
        running.grpc.stop()
        page.driver.refresh()
        page.wait(lambda _driver: page.find("#server-text").text == "Сервер ещё не готов")


def test_files_beyond_what_is_sent_at_once_wait_their_turn(tmp_path: Path) -> None:
    held = ChecksumService()
    held.may_answer.clear()
    names = [f"{number}.wav" for number in range(5)]
    with gateway(held) as running, browser(running.url, tmp_path) as page:
        page.open()
        page.send(*(recording(tmp_path, name, wav(voice(0.5))) for name in names))
        page.wait(lambda _driver: [page.card(name).phase for name in names].count("recognising") == 3)
        assert [page.card(name).phase for name in names[3:]] == ["waiting", "waiting"]
        page.card(names[4]).find(".cancel").click()
        held.may_answer.set()
        for name in names[:4]:
            page.card(name).wait_for("done")
        assert page.card(names[4]).phase == "cancelled"
