"""A whole e-mail rewritten: the links and the pixel, and not a byte more."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.bridges.email_html import rewrite

PIXEL = "https://c.example/o/x.gif"


def run(html: str, pixel: str | None = None) -> tuple[str, list[tuple[str, str]]]:
    seen: list[tuple[str, str]] = []

    def track(url: str, name: str) -> str:
        seen.append((url, name))
        return f"T{len(seen)}"

    return rewrite(html, track, pixel).html, seen


@pytest.mark.parametrize(
    ("html", "wanted", "urls"),
    [
        ('<a href="https://a.example/?x=1&amp;y=2">A</a>', '<a href="T1">A</a>', ["https://a.example/?x=1&y=2"]),
        ("<A class=c HREF = 'https://a.example/' id=i>", "<A class=c HREF = 'T1' id=i>", ["https://a.example/"]),
        ("<a href=https://a.example/ >", "<a href=T1 >", ["https://a.example/"]),
        ('<a href="https://a.example/?a=1&copy=2&reg">', '<a href="T1">', ["https://a.example/?a=1&copy=2%C2%AE"]),
        ('<a href="https://a.example/&#x41;&#66;">', '<a href="T1">', ["https://a.example/AB"]),
        ('<a href="\n https://a.exa\nmple/ \n">', '<a href="T1">', ["https://a.example/"]),
        ('<map><area href="http://a.example"></map>', '<map><area href="T1"></map>', ["http://a.example"]),
        ('<a href="https://one.example" href="https://two.example">', '<a href="T1" href="https://two.example">', ["https://one.example"]),
        ('<a title="<a href=1>" href="https://a.example">', '<a title="<a href=1>" href="T1">', ["https://a.example"]),
        ('<!--[if mso]><v:rect href="http://a.example"><![endif]-->', '<!--[if mso]><v:rect href="T1"><![endif]-->', ["http://a.example"]),
    ],
)  # fmt: skip
def test_links_are_replaced_inside_their_quotes(html: str, wanted: str, urls: list[str]) -> None:
    out, seen = run(html)
    assert out == wanted
    assert [url for url, _ in seen] == urls


@pytest.mark.parametrize(
    "html",
    [
        '<a href="mailto:a@b.example">', '<a href="tel:+491">', '<a href="#top">', '<a href="/x">', "<a>", "<a href>",
        '<a href="{{ unsubscribe }}">', '<a href="https://a.example/*|UNSUB|*">', '<a href="javascript:x()">',
        '<a data-headrace="skip" href="https://a.example/unsubscribe">', '<a href="https://u:p@a.example">',
        '<!-- <a href="https://a.example"> -->', "<style>a{}<a href='https://a.example'></style>",
        "<script>'<a href=\"https://a.example\">'</script>", '<link href="https://a.example/x.css">',
    ],
)  # fmt: skip
def test_what_is_left_as_it_is(html: str) -> None:
    assert run(html) == (html, [])


def test_names_of_links() -> None:
    html = '<a href="https://a.example"><a data-headrace-link="hero &amp; co" href="https://b.example">'
    assert [name for _, name in run(html)[1]] == ["1", "hero & co"]


@pytest.mark.parametrize(
    ("html", "before"),
    [("<html><body>x</body></html>", "</body>"), ("<p>x</html>", "</html>"), ("<p>x</p>", ""), ("", "")],
)
def test_the_pixel_stands_at_the_end_of_the_body(html: str, before: str) -> None:
    out, _ = run(html, PIXEL)
    image = re.search(r"<img [^>]*>", out)
    assert image is not None
    assert f'src="{PIXEL}"' in image[0]
    assert out.replace(image[0], "") == html
    assert out[image.end() :] == (html[html.index(before) :] if before else "")


PIECES = st.sampled_from(
    [
        '<a href="https://a.example/?q=1&amp;r=2">', "</a>", "<p>ü\r\n", "<!-- c -->", "<br/>", "<a href='mailto:x'>",
        "<![CDATA[x]]>", "<!DOCTYPE html>", "\t", "&nbsp;", "<td width=1 bgcolor='#fff'>", "</body>", "<", "<a ", '"',
        "<!--[if mso]>", "<![endif]-->", "<?xml?>", "<style>", "</style>", "</", "<!", "\x00", "😀", "\n", "{{x}}",
    ]
)  # fmt: skip


@given(st.lists(PIECES, max_size=12).map("".join) | st.text(max_size=80))
def test_all_else_stays_to_the_byte(html: str) -> None:
    same, _ = rewrite(html, lambda url, name: None, None).html, None
    assert same == html
    marked = rewrite(html, lambda url, name: "\ue000", None)
    assert marked.html.count("\ue000") == marked.links
    # Put the first address back where the marks are: the original again.
    assert (
        marked.html.replace("\ue000", "https://a.example/?q=1&amp;r=2") == html
        or marked.links == 0
        or ("a.example" not in html)
    )


@pytest.mark.parametrize(
    "piece", ["<a ", "<!--", "<!", "<a href=", "&", "<a href='", "<!--[if ", "</", '<a href="https://a.example/">']
)
def test_hostile_html_takes_no_long_time(piece: str) -> None:
    html = piece * (200_000 // len(piece))
    started = time.process_time()
    run(html)
    assert time.process_time() - started < 10
