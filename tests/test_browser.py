"""The pages in Chromium: they need no network, say nothing on the console, fit a phone, and answer to the mouse."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

import avae
from avae.config import Evaluation, default, experiment
from avae.data.dataset import Examples
from avae.evaluation.averages import averages
from avae.evaluation.evaluate import Inputs, measure
from avae.poses import page as poses_page, table
from avae.report import page as report

pytestmark = pytest.mark.browser

QUIET = ("disable-gpu", "disable-quic", "no-first-run", "disable-background-networking", "disable-component-update")
N, SHAPE = 12, (8, 8, 1)
IMAGES = np.random.default_rng(0).random((N, *SHAPE)).astype(np.float32)
FAMILY = avae.QuarterTurns()


@pytest.fixture(scope="module")
def params():
    return avae.init(jax.random.key(0), avae.Model(avae.MLP(SHAPE, 2, (4,)), transform=FAMILY))


@pytest.fixture(scope="module")
def written(params, tmp_path_factory):
    """A report of made-up images of six classes."""
    test, names = (
        Examples(IMAGES, np.arange(N) % 6, np.zeros((N, 1))),
        ["<b>", *(f"kind of object {k}" for k in range(5))],
    )
    inputs = Inputs(test, IMAGES, IMAGES[:2], FAMILY, class_names=tuple(names))
    settings = Evaluation(draws=1, n_exhaustive=N, n_angles=4, n_curve=2, curve_step=60, n_bound=0)
    described = dataclasses.replace(experiment(default()), model=params.model)
    return report.write(tmp_path_factory.mktemp("run"), measure(params, inputs, settings), described)


@pytest.fixture(scope="module")
def poses(params, tmp_path_factory):
    """index.html of a folder of poses."""
    rows = np.zeros(N, table.dtype(FAMILY, 2))
    rows["finite"], rows["loss"], rows["matrix"] = True, np.arange(N), np.eye(2, 3)
    out, labels = tmp_path_factory.mktemp("poses"), ["round", "<b>"] * (N // 2)
    groups = averages(IMAGES, IMAGES, rows["finite"], rows["latent"], labels)
    poses_page.write(out, IMAGES, IMAGES, rows, groups, params, labels)
    return out / "index.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A headless Chromium of its own."""
    webdriver = pytest.importorskip("selenium.webdriver")
    found = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    if None in found.values():
        pytest.skip("no chromium and chromedriver here; on Debian: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = found["chromium"]
    profile = tmp_path_factory.mktemp("profile")
    for flag in ("headless=new", "no-sandbox", "disable-sync", f"user-data-dir={profile}", *QUIET):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(found["chromedriver"]))
    yield driver
    driver.quit()


def opened(browser, path, width=1000, scheme="light"):
    """Opens a page in a window `width` pixels wide; checks that it asks for nothing and complains of nothing."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    for log in ("performance", "browser"):  # of the page before
        browser.get_log(log)
    browser.get(path.as_uri())
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert asked[0] == path.as_uri()
    assert {url.partition(":")[0] for url in asked[1:]} <= {"data"}
    assert browser.get_log("browser") == []


def test_the_mouse_over_a_point_shows_its_thumbnail(browser, written):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    opened(browser, written)
    box = browser.find_element(By.CSS_SELECTOR, ".hover")
    points = browser.find_elements(By.CSS_SELECTOR, ".map circle")
    assert len(points) == N
    assert not box.is_displayed()
    ActionChains(browser).scroll_to_element(points[0]).perform()
    for point in (points[0], points[-1]):
        ActionChains(browser).move_to_element(point).perform()
        assert box.is_displayed()
        assert box.text == point.get_attribute("data-words")
        sheet = box.find_element(By.CSS_SELECTOR, "div")
        assert sheet.value_of_css_property("background-image").startswith('url("data:image/png;base64,')
        left = -2 * 48 * int(point.get_attribute("data-column"))
        assert sheet.value_of_css_property("background-position") == f"{left}px 0px"
        assert box.rect["x"] >= 0
        assert box.rect["x"] + box.rect["width"] <= 1000
    ActionChains(browser).move_to_element(browser.find_element(By.CSS_SELECTOR, "h2")).perform()
    assert not box.is_displayed()
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("width", [390, 1000])
@pytest.mark.parametrize("name", ["written", "poses"])
def test_pages_fit_and_all_their_images_are_drawn(browser, request, name, width):
    opened(browser, request.getfixturevalue(name), width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    first = browser.execute_script(
        "return Array.from(document.querySelectorAll('tr > :first-child'), e => e.clientWidth)"
    )
    assert min(first) > 30  # words are not broken letter by letter
    drawn = browser.execute_script("return Array.from(document.images, i => i.complete && i.naturalWidth > 0)")
    assert all(drawn)
    assert len(drawn) == (3 if name == "poses" else 5)


@pytest.mark.parametrize("name", ["written", "poses"])
def test_words_are_light_where_a_dark_page_is_asked_for(browser, request, name):
    ink = {}
    for scheme in ("light", "dark"):
        opened(browser, request.getfixturevalue(name), scheme=scheme)
        ink[scheme] = browser.execute_script("return getComputedStyle(document.body).color.match(/\\d+/g).map(Number)")
    assert max(ink["light"]) < 100 < 200 < min(ink["dark"])
