"""The page in a real browser: Chromium without a screen, and what a test does and sees on the page."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from tests.support.waiting import HANG_LIMIT_S

CHROMIUM, DRIVER = "chromium", "chromedriver"
_FLAGS = (
    "--headless",
    "--no-sandbox",  # root, in a container
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-ui-for-media-stream",  # the microphone is allowed without a question
    "--use-fake-device-for-media-stream",
    "--window-size=1200,1000",
)


class Page:
    """One tab that shows the page."""

    def __init__(self, driver: webdriver.Chrome, url: str, downloads: Path) -> None:
        self.driver = driver
        self.url = url
        self.downloads = downloads

    def open(self, language: str = "ru", theme: str = "light") -> None:
        """Loads the page in a language and a theme."""
        self.driver.get(self.url)
        settings = {"language": language, "theme": theme}
        self.driver.execute_script("Object.assign(localStorage, arguments[0])", settings)
        self.driver.get(self.url)

    def send(self, *recordings: Path) -> None:
        """Chooses files, as the button does."""
        self.find("#files").send_keys("\n".join(map(str, recordings)))

    def find(self, selector: str) -> WebElement:
        """The first element."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        """All elements."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def card(self, name: str) -> "Card":
        """The card of the recording called `name`, once it is there."""

        def found(_driver: object) -> WebElement | None:
            cards = self.all(".card")
            return next((card for card in cards if card.find_element(By.CLASS_NAME, "name").text == name), None)

        return Card(self, self.wait(found))

    def wait(self, condition: Callable[[Any], Any]) -> Any:
        """What `condition` returns once it is true."""
        return WebDriverWait(self.driver, HANG_LIMIT_S, poll_frequency=0.05).until(condition)

    def downloaded(self, name: str) -> str:
        """The text of a file that the page has let the browser save."""
        path = self.downloads / name
        self.wait(lambda _driver: path.exists() and path.stat().st_size)
        return path.read_text(encoding="utf-8")

    def complaints(self) -> list[str]:
        """What the browser found wrong with the page: scripts that failed, policies that were broken."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def addresses(self) -> list[str]:
        """Every address that the page has asked for."""
        entries = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        sent = ("Network.requestWillBeSent", "Network.webSocketCreated")
        asked = [entry["params"] for entry in entries if entry["method"] in sent]
        return [params["url"] if "url" in params else params["request"]["url"] for params in asked]


class Card:
    """A recording on the page."""

    def __init__(self, page: Page, element: WebElement) -> None:
        self.page = page
        self.element = element

    @property
    def phase(self) -> str:
        """waiting, uploading, recognising, done, failed, …"""
        return str(self.element.get_attribute("data-phase"))

    def wait_for(self, *phases: str) -> "Card":
        """Returns once the recording is in one of `phases`."""
        self.page.wait(lambda _driver: self.phase in phases)
        return self

    def find(self, selector: str) -> WebElement:
        """An element of the card."""
        return self.element.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        """Elements of the card."""
        return self.element.find_elements(By.CSS_SELECTOR, selector)

    @property
    def text(self) -> str:
        """What was recognised, as it stands on the page."""
        return " ".join(element.text for element in self.all(".segment .text"))

    @property
    def position_s(self) -> float:
        """Where the player is."""
        return float(self.page.driver.execute_script("return arguments[0].currentTime", self.find(".player")))


@contextmanager
def browser(url: str, folder: Path, microphone: Path | None = None) -> Iterator[Page]:
    """A browser of its own; `microphone` is a WAV file that is spoken into it once."""
    options = webdriver.ChromeOptions()
    for flag in (*_FLAGS, f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(flag)
    if microphone:
        options.add_argument(f"--use-file-for-fake-audio-capture={microphone}%noloop")
    options.binary_location = _path_of(CHROMIUM)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    downloads = folder / "downloads"
    downloads.mkdir()
    with webdriver.Chrome(options, Service(_path_of(DRIVER))) as driver:
        driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads)})
        yield Page(driver, url, downloads)


def _path_of(program: str) -> str:
    path = shutil.which(program)
    assert path, f"{program} is not installed: see make test-browser"
    return path
