"""report.html in headless Chromium: nothing complains, sorting, filtering and what shows under the pointer work."""

import shutil

import pytest

import drpai_qat
from tests.report.page.browser import chromium

pytestmark = pytest.mark.slow

ROWS = "[...document.querySelectorAll('#table tbody tr')]"


@pytest.fixture(scope="module")
def report_file(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser") / "out"
    drpai_qat.compile(models / "pt_up_yolo.onnx", output_dir=folder, qat_type="pytorch", check="layers")
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser():
    program = shutil.which("chromium") or shutil.which("google-chrome")
    assert program, "apt-get install chromium"
    with chromium(program) as page:
        yield page


@pytest.fixture
def page(browser, report_file):
    browser.told.clear()
    browser.open(report_file)
    return browser


def column(page, number):
    return page.run(f"{ROWS}.filter(row => !row.hidden).map(row => row.cells[{number}].textContent.trim())")


def heading(page, text):
    """Number of a column of the table of layers."""
    names = page.run("[...document.querySelectorAll('#table thead th')].map(one => one.textContent)")
    return names.index(text)


def press(page, number):
    page.run(f"document.querySelectorAll('#table thead th button')[{number}].click()")


def test_nothing_complains_and_nothing_is_loaded(page, report_file):
    page.point(600, 300)
    requests = [one["params"]["request"]["url"] for one in page.told if one["method"] == "Network.requestWillBeSent"]
    assert [url for url in requests if not url.startswith("data:")] == [report_file.as_uri()]
    assert [one for one in page.told if one["method"] != "Network.requestWillBeSent"] == []


def test_sorting(page):
    macs = heading(page, "MAC")
    numbers = f"{ROWS}.map(row => Number(row.cells[{macs}].dataset.v))"
    press(page, macs)
    falling = page.run(numbers)
    assert falling == sorted(falling, reverse=True)
    assert falling[0] > falling[-1]
    assert page.run(f"document.querySelectorAll('#table thead th')[{macs}].getAttribute('aria-sort')") == "descending"
    press(page, macs)
    assert page.run(numbers) == falling[::-1]
    operator = heading(page, "Operator")
    press(page, operator)
    names = [name.lower() for name in column(page, operator)]
    assert names == sorted(names)
    press(page, 0)
    assert column(page, 0) == [str(i) for i in range(len(falling))]


def test_filtering(page):
    everything = column(page, 0)
    page.run("filter = document.getElementById('filter'); filter.value = 'maxpool'")
    page.run("filter.dispatchEvent(new Event('input'))")
    assert 0 < len(column(page, 0)) < len(everything)
    assert all(name.startswith("MaxPool") for name in column(page, heading(page, "Operator")))
    assert page.run("document.getElementById('found').textContent") == f"{len(column(page, 0))} of {len(everything)}"
    page.run("filter.value = ''; filter.dispatchEvent(new Event('input'))")
    page.run("type = document.getElementById('type'); type.value = 'float32'; type.dispatchEvent(new Event('change'))")
    assert set(column(page, heading(page, "Type"))) == {"float32"}


def test_what_shows_under_the_pointer(page):
    assert page.run("document.getElementById('tip').hidden")
    page.point(*page.center(".plot[data-plot=macs]"))
    assert page.run("!document.getElementById('tip').hidden")
    told = page.run("document.getElementById('tip').textContent")
    number = told.split()[0]
    assert page.run(f"document.querySelector('tr.chosen').id === 'layer-{number}'")
    assert page.run("document.querySelector('.plot .at').getAttribute('visibility')") == "visible"
    page.point(*page.center(".plot[data-plot=memory]"))
    assert " · " in page.run("document.getElementById('tip').textContent")
    assert "kernel " in page.run("document.getElementById('tip').textContent")
    assert page.run("document.querySelectorAll('tr.chosen').length") == 1
    page.point(2, 2)
    assert page.run("document.getElementById('tip').hidden")


def test_graph_shows_a_layers_row(page):
    page.point(*page.center(".canvas a[data-layer='3'] .box"), click=True)
    top, bottom, height = page.run(
        "(() => { const box = document.getElementById('layer-3').getBoundingClientRect();"
        " return [box.top, box.bottom, innerHeight]; })()"
    )
    assert page.run("document.querySelector('tr.chosen').id") == "layer-3"
    assert page.run("document.querySelectorAll('.edge.chosen').length") > 0
    assert 0 <= top < bottom <= height
    before = page.run("document.getElementById('picture').getAttribute('width')")
    page.run("document.querySelector('[data-zoom=\"1.25\"]').click()")
    assert float(page.run("document.getElementById('picture').getAttribute('width')")) == 1.25 * float(before)


@pytest.mark.parametrize("width", [320, 768])
def test_narrow_screens_scroll_inside_tables_alone(browser, report_file, width):
    browser.open(report_file, width=width)
    assert browser.run("document.documentElement.scrollWidth") <= width


def test_dark_mode_and_paper(browser, report_file):
    browser.open(report_file, dark=True)
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 29)"
    assert browser.printed().startswith(b"%PDF")


def test_complete_without_a_script(browser, report_file):
    browser.open(report_file, script=False)
    assert browser.run("document.querySelector('.filter').hidden")
    assert browser.run("document.querySelectorAll('#table tbody tr').length") > 20
    assert browser.run("document.querySelectorAll('.plot rect.int8').length") > 5
    assert browser.run("document.querySelectorAll('.canvas .box').length") > 20
