"""The pages in a real browser: keys, touch, going on, a server that went away, and the file without a server."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from support.browser import chromium, until
from support.made_study import made_study

from limner.runtime.listening import address_of, listening
from limner.runtime.study.people.page import collect, static_page
from limner.runtime.study.people.pictures import Pictures
from limner.runtime.study.people.serving import Desk, make_pages_app
from limner.runtime.study.people.store import Store
from limner.runtime.study.plans.making import Study
from limner.runtime.study.samples import load_samples

OTHER_PAGE = "(before) => document.getElementById('count').textContent !== before"
FEW = {"pages": {"acceptable": 3, "quality": 3, "pair": 3}, "repeats": 1, "checks": 1, "controls": 1}


@contextmanager
def served(study: Study, port: int = 0) -> Iterator[str]:
    pictures = Pictures(study, load_samples(study.plan.samples))
    with listening("127.0.0.1", port) as opened:
        config = uvicorn.Config(make_pages_app(Desk(Store(study), pictures)), log_level="error")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
        thread.start()
        try:
            yield address_of(opened)
        finally:
            server.should_exit = True
            thread.join(20)


def kind_of(page: Any) -> str:
    return next(name for name in ("made", "rating", "better", "code", "save") if page.query_selector(f"#{name}"))


def answer_one(page: Any, touch: bool) -> str:
    """Answer what is shown, by keys or by touch; what it was."""
    kind, count = kind_of(page), page.inner_text("#count")
    until(page, "() => [...document.images].every((one) => one.complete && one.naturalWidth > 0)")
    keys = {"made": ("y", "n"), "rating": ("4",), "better": ("l",)}[kind]
    places = {"made": ("#made-true", "#kept-false"), "rating": ("#rating-4",), "better": ("#better-right",)}[kind]
    for key, place in zip(keys, places, strict=True):
        page.tap(place) if touch else page.keyboard.press(key)
    until(page, OTHER_PAGE, count)
    return kind


def begin(page: Any) -> None:
    page.wait_for_selector("#agree")
    assert page.is_disabled("#begin")
    page.check("#agree")
    page.click("#begin")
    page.wait_for_selector("fieldset")


def test_keys_and_touch_give_the_same_answers(tmp_path: Path) -> None:
    study = made_study(tmp_path, people=FEW)
    values = []
    with served(study) as base:
        for touch, size in ((False, (1000, 900)), (True, (390, 740))):
            view = {"width": size[0], "height": size[1]}
            with chromium(viewport=view, has_touch=touch) as context:
                page = context.new_page()
                asked: list[str] = []
                said: list[str] = []
                page.on("request", lambda one, asked=asked: asked.append(one.url))
                page.on("pageerror", lambda one, said=said: said.append(str(one)))
                page.on("console", lambda one, said=said: said.append(one.text))
                page.goto(f"{base}/?PROLIFIC_PID=p{touch}")
                begin(page)
                kinds = [answer_one(page, touch) for _ in range(4)]
                page.reload()  # goes on where it was left
                page.wait_for_selector("fieldset")
                while kind_of(page) != "code":
                    kinds.append(answer_one(page, touch))
                wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
                assert wide <= 0 and set(kinds) == {"made", "rating", "better"}
                assert not said and {urlsplit(url).netloc for url in asked} == {urlsplit(base).netloc}
                code = page.inner_text("#code")
                mine = [one for one in Store(study).given() if one.rater == code]
                assert [one.position for one in mine] == list(range(len(kinds)))
                values.append({json.dumps(one.value, sort_keys=True) for one in mine})
    assert values[0] == values[1] == {'{"kept": false, "made": true}', '{"rating": 4}', '{"better": "right"}'}


def test_a_server_that_went_away(tmp_path: Path) -> None:
    study = made_study(tmp_path, people=FEW)
    with chromium() as context:
        page = context.new_page()
        with served(study) as base:
            page.goto(base)
            begin(page)
            answer_one(page, touch=False)
            shown = page.inner_text("#count")
        buttons = page.query_selector_all("fieldset button")
        for button in buttons:
            button.click()
        until(page, "() => document.getElementById('message').textContent.includes('cannot be reached')")
        assert page.inner_text("#count") == shown
        with served(study, urlsplit(base).port or 0):
            page.wait_for_selector("fieldset button:not([disabled])")
            page.query_selector_all("fieldset button")[-1].click()
            until(page, OTHER_PAGE, shown)
    assert [one.position for one in Store(study).given()] == [0, 1]


def test_a_file_without_a_server(tmp_path: Path) -> None:
    study = made_study(tmp_path, people=FEW)
    path = tmp_path / "page.html"
    path.write_text(static_page(Pictures(study, load_samples(study.plan.samples)), 5))
    with chromium(accept_downloads=True) as context:
        page, asked = context.new_page(), []
        page.on("request", lambda one: asked.append(one.url))
        page.goto(path.as_uri())
        begin(page)
        for _ in range(3):
            answer_one(page, touch=False)
        page.reload()
        page.wait_for_selector("fieldset")
        assert page.inner_text("#count").startswith("3 of")
        while kind_of(page) != "save":
            answer_one(page, touch=False)
        with page.expect_download() as waiting:
            page.click("#save")
        waiting.value.save_as(tmp_path / "answers.json")
        assert {urlsplit(url).scheme for url in asked} <= {"file", "data", "blob"}
    store = Store(study)
    rater = collect(store, tmp_path / "answers.json")
    assert rater.number == 5 and len(store.given()) == len(store.pages(5))
