"""What the page asks of the studio: photos, pictures, the queue, the stream of changes."""

from __future__ import annotations

import http.client
import io
import json
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from stylescore.studio.limits import MIB, Limits


def events(running: Any, client: Any, after: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield the name and content of what the stream sends."""
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=20)
    cookie = f"stylescore_session={client.cookies['stylescore_session']}"
    connection.request("GET", f"/api/events?after={after}", headers={"Cookie": cookie})
    response = connection.getresponse()
    assert response.headers["Content-Type"].startswith("text/event-stream")
    name = ""
    try:
        while line := response.readline().decode().strip("\r\n") + "\n":
            if line.startswith("event: "):
                name = line[7:].strip()
            elif line.startswith("data: "):
                yield name, json.loads(line[6:])
    finally:
        connection.close()


def test_a_photo_becomes_a_picture_of_its_size_with_its_recipe(running: Any, picture: Callable[..., bytes]) -> None:
    client = running.client()
    photo = client.upload(picture(size=(120, 80)), "my%20cat.jpg")
    (job,) = client.begin(photo, content=0.8, caption="a cat")
    done = client.wait(job["id"])
    assert (done["iteration"], done["total"], done["settings"]["caption"]) == (4, 4, "a cat")
    answer = client.ask("GET", f"/api/jobs/{job['id']}/picture")
    assert answer.headers["Content-Disposition"] == "attachment; filename*=UTF-8''my%20cat-van-gogh.png"
    with Image.open(io.BytesIO(answer.body)) as found:
        assert found.size == (120, 80)
        assert "stylescore" in found.text
    for kind in ("view", "thumb", "preview"):
        assert client.ask("GET", f"/api/jobs/{job['id']}/{kind}").status == 200


def test_the_stream_says_what_happens_and_goes_on_after_a_revision(running: Any, picture: Callable[..., bytes]) -> None:
    client = running.client()
    (job,) = client.begin(client.upload(picture()))
    seen: list[dict[str, Any]] = []
    for name, content in events(running, client):
        if name == "jobs":
            seen += content
            if seen[-1]["status"] == "done":
                break
    assert [row["revision"] for row in seen] == sorted(row["revision"] for row in seen)
    again = events(running, client, after=seen[-1]["revision"] - 1)
    name, content = next(again)
    assert (name, [row["id"] for row in content]) == ("jobs", [job["id"]])


def test_the_stream_tells_places_in_the_queue(serve: Callable[..., Any], picture: Callable[..., bytes]) -> None:
    running = serve(works=False)
    client, other = running.client(), running.client()
    first, second = client.begin(*[client.upload(picture())] * 2)
    other.begin(other.upload(picture()))
    stream = events(running, client)
    places = next(content for name, content in stream if name == "line")
    assert places == {first["id"]: 1, second["id"]: 3}, "the other session comes in between"


def test_a_run_is_stopped_kept_and_goes_on(serve: Callable[..., Any], picture: Callable[..., bytes]) -> None:
    running = serve()
    running.engine.hold.clear()
    client = running.client()
    (job,) = client.begin(client.upload(picture()))
    client.wait(job["id"], "running")
    assert client.ask("POST", f"/api/jobs/{job['id']}/stop", {}).status == 200
    assert client.wait(job["id"], "stopped")["status"] == "stopped"
    assert client.ask("GET", f"/api/jobs/{job['id']}/picture").status == 200
    running.engine.hold.set()
    assert client.ask("POST", f"/api/jobs/{job['id']}/resume", {}).status == 200
    client.wait(job["id"], "done")


def test_a_running_picture_is_cancelled_and_removed(serve: Callable[..., Any], picture: Callable[..., bytes]) -> None:
    running = serve()
    running.engine.hold.clear()
    client = running.client()
    first, second = client.begin(*[client.upload(picture())] * 2)
    client.wait(first["id"], "running")
    assert client.ask("DELETE", f"/api/jobs/{first['id']}").status == 422, "it runs"
    for job in (first, second):
        client.ask("POST", f"/api/jobs/{job['id']}/cancel", {})
        client.wait(job["id"], "cancelled")
        assert client.ask("DELETE", f"/api/jobs/{job['id']}").status == 200
    assert client.ask("GET", "/api/state").json["jobs"] == []
    assert not running.studio.folder.run(first["id"]).exists()


def test_history_and_session_survive_a_restart(serve: Callable[..., Any], picture: Callable[..., bytes]) -> None:
    before = serve()
    client = before.client()
    (job,) = client.begin(client.upload(picture()))
    client.wait(job["id"])
    before.end()
    client.port = serve().port
    assert client.job(job["id"])["status"] == "done"
    assert client.ask("GET", f"/api/jobs/{job['id']}/view").status == 200


def test_the_same_photo_is_kept_once(running: Any, picture: Callable[..., bytes]) -> None:
    client, content = running.client(), picture(colour="green")
    assert client.upload(content) == client.upload(content, "other-name.png")
    assert len(client.ask("GET", "/api/state").json["photos"]) == 1


def test_a_photo_is_shown_upright_and_with_its_transparency(running: Any, picture: Callable[..., bytes]) -> None:
    client = running.client()
    exif = Image.Exif()
    exif[0x0112] = 6
    sideways = client.ask("POST", "/api/photos", picture(size=(60, 40), format="JPEG", exif=exif), {"X-Name": "a.jpg"})
    shown = sideways.json["photo"]
    assert (shown["width"], shown["height"]) == (40, 60)
    view = client.ask("GET", f"/api/photos/{shown['id']}/view")
    with Image.open(io.BytesIO(view.body)) as found:
        assert found.size == (40, 60)
    target = io.BytesIO()
    Image.new("RGBA", (40, 40), (255, 0, 0, 100)).save(target, "PNG")
    view = client.ask("GET", f"/api/photos/{client.upload(target.getvalue())}/view")
    assert view.headers["Content-Type"] == "image/png"
    with Image.open(io.BytesIO(view.body)) as found:
        assert found.getpixel((5, 5)) == (255, 0, 0, 100)


def test_a_full_folder_takes_nothing_more_until_it_is_cleared(
    serve: Callable[..., Any], picture: Callable[..., bytes]
) -> None:
    running = serve(limits=Limits(storage_bytes=MIB))
    client = running.client()
    photo = client.upload(picture())
    (running.studio.folder.photo(photo) / "padding").write_bytes(bytes(2 * MIB))
    running.studio.storage(anew=True)
    answer = client.ask("POST", "/api/photos", picture(colour="blue"), {"X-Name": "b.png"})
    assert (answer.status, answer.json["hint"]) == (507, "clear the history")
    assert client.ask("POST", "/api/jobs", {"photos": [photo], "settings": {"style": "van-gogh"}}).status == 507
    assert client.ask("POST", "/api/clear", {}).json["storage"]["used"] == 0
    client.upload(picture(colour="blue"))


def test_a_named_folder_and_a_named_file_bring_their_styles(
    serve: Callable[..., Any], parity: Path, tmp_path: Path
) -> None:
    lora = (parity / "style_lora_kohya.safetensors").read_bytes()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "my-style.safetensors").write_bytes(lora)
    (tmp_path / "folder" / "broken.safetensors").write_bytes(b"nothing")
    (tmp_path / "alone.safetensors").write_bytes(lora)
    (tmp_path / "neighbour.safetensors").write_bytes(lora)
    running = serve(styles=(tmp_path / "folder", tmp_path / "alone.safetensors"))
    styles = running.client().ask("GET", "/api/state").json["styles"]
    names = [style["name"] for style in styles]
    assert {"my-style", "alone", "van-gogh"} <= set(names)
    assert not {"broken", "neighbour"} & set(names)
    assert all(style["thumbnail"] for style in styles if style["bundled"])


def test_every_bundled_style_has_a_small_thumbnail(running: Any) -> None:
    client = running.client()
    bundled = [style for style in client.ask("GET", "/api/state").json["styles"] if style["bundled"]]
    assert len(bundled) >= 8
    for style in bundled:
        answer = client.ask("GET", style["thumbnail"])
        assert answer.status == 200
        with Image.open(io.BytesIO(answer.body)) as found:
            assert (found.format, found.size) == ("WEBP", (224, 224))
        assert len(answer.body) < 30_000


def test_the_constants_of_a_style_are_its_presets(running: Any) -> None:
    from stylescore.config.presets import preset_for

    constants = running.client().ask("GET", "/api/styles/pencil-sketch/constants").json
    preset = preset_for("mini", None, None, ["pencil-sketch"])
    assert constants["style_strength"] == preset.style_strength
    assert constants["spectrum.weight"] == preset.spectrum.weight


def test_fifty_uploads_at_once_and_two_hundred_jobs_lose_nothing(
    serve: Callable[..., Any], picture: Callable[..., bytes]
) -> None:
    running = serve()
    running.engine.iterations = 1
    clients = [running.client() for _ in range(4)]
    photos: list[tuple[int, str]] = []
    answers: list[int] = []

    def send(number: int) -> None:
        content = picture(colour=(number, 255 - number, 7), size=(64, 48))
        photos.append((number % 4, clients[number % 4].upload(content, f"{number}.png")))

    def look(stop: threading.Event) -> None:
        while not stop.is_set():
            answers.append(clients[0].ask("GET", "/").status)
            time.sleep(0.05)

    stop = threading.Event()
    watcher = threading.Thread(target=look, args=(stop,))
    watcher.start()
    threads = [threading.Thread(target=send, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({key for _, key in photos}) == 50
    keys: list[str] = []
    for owner, key in photos:
        keys += [job["id"] for job in clients[owner].begin(*[key] * 4)]
    end = time.monotonic() + 120
    while len(running.engine.made) < 200 and time.monotonic() < end:
        time.sleep(0.2)
    stop.set()
    watcher.join()
    assert sorted(running.engine.made) == sorted(keys)
    states = [job for client in clients for job in client.ask("GET", "/api/state").json["jobs"]]
    assert [job["status"] for job in states] == ["done"] * 200
    assert set(answers) == {200}, "the page is answered meanwhile"


@pytest.mark.parametrize("count", [201, 0])
def test_a_request_begins_so_many_photos_at_most(running: Any, picture: Callable[..., bytes], count: int) -> None:
    client = running.client()
    photo = client.upload(picture())
    answer = client.ask("POST", "/api/jobs", {"photos": [photo] * count, "settings": {"style": "van-gogh"}})
    assert answer.status == 422


def test_a_session_has_so_many_streams_at_most(serve: Callable[..., Any]) -> None:
    running = serve(limits=Limits(streams=2))
    client = running.client()
    streams = [events(running, client) for _ in range(2)]
    for stream in streams:
        next(stream)
    assert client.ask("GET", "/api/events").status == 429


def half_mask(size: tuple[int, int] = (96, 64), colours: tuple[int, int] = (0, 255)) -> bytes:
    """Return a mask whose left half has one grey and whose right half has another."""
    target = io.BytesIO()
    mask = Image.new("L", size, colours[1])
    ImageDraw.Draw(mask).rectangle((0, 0, size[0] // 2 - 1, size[1]), fill=colours[0])
    mask.save(target, "PNG")
    return target.getvalue()


def test_a_mask_is_stored_at_the_photos_size_and_goes_with_the_job(running: Any, picture: Callable[..., bytes]) -> None:
    client = running.client()
    photo = client.upload(picture(size=(120, 80)))
    mask = client.ask("POST", f"/api/photos/{photo}/masks", half_mask((60, 40))).json["mask"]
    stored = client.ask("GET", f"/api/photos/{photo}/masks/{mask}")
    with Image.open(io.BytesIO(stored.body)) as found:
        assert (found.mode, found.size) == ("L", (120, 80))
        assert (found.getpixel((0, 0)), found.getpixel((119, 79))) == (0, 255)
    other = client.upload(picture(colour="navy"))
    masked, plain = client.begin(photo, other, masks={photo: mask}, mask_feather=3)
    assert (masked["settings"]["mask"], plain["settings"]["mask"]) == (mask, None)
    assert client.ask("POST", f"/api/photos/{photo}/masks", half_mask((60, 40))).json["mask"] == mask, "the same file"


def test_masks_that_cannot_be_used_are_refused(running: Any, picture: Callable[..., bytes]) -> None:
    client = running.client()
    photo, other = client.upload(picture()), client.upload(picture(colour="navy"))
    path = f"/api/photos/{photo}/masks"
    for content, reason in (
        (b"nothing", "not a picture"),
        (half_mask((96, 96)), "as large as its photo"),
        (half_mask((192, 128)), "as large as its photo"),
        (b"a" * (9 * MIB), "at most"),
    ):
        answer = client.ask("POST", path, content)
        assert answer.status in (413, 422), answer.body
        assert reason in answer.json["message"]
    mask = client.ask("POST", path, half_mask()).json["mask"]
    black = client.ask("POST", path, half_mask(colours=(0, 0))).json["mask"]
    for masks, status in (
        ({other: mask}, 404),
        ({photo: "0" * 16}, 404),
        ({photo: "../photo"}, 404),
        ({photo: 1}, 422),
        ([], 422),
        ({photo: black}, 422),
    ):
        table = {"photos": [photo, other], "settings": {"style": "van-gogh"}, "masks": masks}
        assert client.ask("POST", "/api/jobs", table).status == status, masks
    stranger = running.client()
    assert stranger.ask("POST", path, half_mask()).status == 404
    assert stranger.ask("GET", f"{path}/{mask}").status == 404


def test_masks_that_no_picture_has_do_not_pile_up(running: Any, picture: Callable[..., bytes]) -> None:
    client = running.client()
    photo = client.upload(picture(colour="olive"))
    path = f"/api/photos/{photo}/masks"
    used = client.ask("POST", path, half_mask()).json["mask"]
    client.begin(photo, masks={photo: used})
    for grey in range(1, 21):
        last = client.ask("POST", path, half_mask(colours=(grey, 255))).json["mask"]
    masks = [file.stem for file in running.studio.folder.photo(photo).glob("mask-*.png")]
    assert len(masks) == 10
    assert {f"mask-{used}", f"mask-{last}"} <= set(masks)


def test_a_removed_photo_is_kept_for_its_pictures_and_no_longer(running: Any, picture: Callable[..., bytes]) -> None:
    client, content = running.client(), picture(colour="teal")
    unused, photo = client.upload(picture(colour="maroon")), client.upload(content)
    (job,) = client.begin(photo)
    client.wait(job["id"])
    for key in (unused, photo):
        assert client.ask("DELETE", f"/api/photos/{key}").status == 200
    assert not running.studio.folder.photo(unused).exists()
    (left,) = client.ask("GET", "/api/state").json["photos"]
    assert (left["id"], left["listed"]) == (photo, False)
    assert client.ask("GET", f"/api/photos/{photo}/view").status == 200, "the slider shows it"
    assert client.upload(content) == photo, "dropped again, it is listed again"
    assert client.ask("GET", "/api/state").json["photos"][0]["listed"] is True
    client.ask("DELETE", f"/api/photos/{photo}")
    client.ask("DELETE", f"/api/jobs/{job['id']}")
    assert client.ask("GET", "/api/state").json["photos"] == []
    assert not running.studio.folder.photo(photo).exists()
    assert client.ask("DELETE", f"/api/photos/{photo}").status == 404


def test_an_archive_has_every_picture_with_its_recipe(running: Any, picture: Callable[..., bytes]) -> None:
    client = running.client()
    photo = client.upload(picture(), "cup.png")
    jobs = [*client.begin(photo), *client.begin(photo, mixed={"watercolor": 0.5}), *client.begin(photo, seed=1)]
    for job in jobs:
        client.wait(job["id"])
    answer = client.ask("GET", f"/api/archive?job={jobs[0]['id']}&job={jobs[1]['id']}&job={jobs[2]['id']}")
    assert answer.headers["Content-Type"] == "application/zip"
    assert answer.headers["Content-Disposition"] == "attachment; filename*=UTF-8''pictures.zip"
    with zipfile.ZipFile(io.BytesIO(answer.body)) as archive:
        assert archive.testzip() is None
        names = ["cup-van-gogh.png", "cup-van-gogh-watercolor.png", "cup-van-gogh (2).png"]
        assert archive.namelist() == names
        for name in names:
            with Image.open(archive.open(name)) as found:
                assert "stylescore" in found.text
    assert len(zipfile.ZipFile(io.BytesIO(client.ask("GET", "/api/archive").body)).namelist()) == 3
    assert client.ask("GET", "/api/archive?job=other").status == 404
    assert running.client().ask("GET", "/api/archive").status == 404, "there is no picture"


def test_an_archive_is_written_while_it_is_read(tmp_path: Path) -> None:
    import tracemalloc

    from stylescore.studio.archive import CHUNK, stream_archive

    files = [("a.png", tmp_path / "a.png"), ("A.png", tmp_path / "b.png")]
    for _, path in files:
        path.write_bytes(bytes(32 * CHUNK))
    tracemalloc.start()
    with (tmp_path / "pictures.zip").open("wb") as target:
        for part in stream_archive(files):
            target.write(part)
    assert tracemalloc.get_traced_memory()[1] < 8 * CHUNK
    tracemalloc.stop()
    with zipfile.ZipFile(tmp_path / "pictures.zip") as archive:
        assert archive.namelist() == ["a.png", "A (2).png"]
        assert archive.testzip() is None
    with pytest.raises(FileNotFoundError):
        list(stream_archive([("gone.png", tmp_path / "gone.png")]))


def test_the_constants_of_a_mixture_are_asked_for_with_all_its_styles(running: Any) -> None:
    client = running.client()
    answer = client.ask("GET", "/api/styles/pencil-sketch/constants?also=watercolor")
    assert answer.json["iterations"] > 0
    assert client.ask("GET", "/api/styles/pencil-sketch/constants?also=nothing").status == 422


def test_a_caption_is_written_where_a_model_is_there(
    running: Any, picture: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = running.client()
    first, second = client.upload(picture(), "cup.png"), client.upload(picture(colour="navy"), "sea.png")
    assert client.ask("POST", f"/api/photos/{first}/caption", {}).json == {"available": False}
    monkeypatch.setattr("stylescore.studio.server.cached_transformer", lambda hub_id: Path("model"))
    for photo in (first, second):
        assert client.ask("POST", f"/api/photos/{photo}/caption", {}).json == {"available": True}
    end = time.monotonic() + 20
    while (found := client.ask("GET", f"/api/photos/{second}/caption").json)["waiting"]:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert found == {"caption": "a photo called sea.png", "waiting": False}
    table = {"photos": [first, second], "settings": {"style": "van-gogh"}, "own_captions": True}
    jobs = client.ask("POST", "/api/jobs", table).json["jobs"]
    assert [job["settings"]["caption"] for job in jobs] == ["a photo called cup.png", "a photo called sea.png"]
    assert client.begin(first, caption="mine")[0]["settings"]["caption"] == "mine"
    assert running.client().ask("GET", f"/api/photos/{first}/caption").status == 404


def test_a_photo_that_no_caption_can_be_written_of_waits_no_longer(
    serve: Callable[..., Any], picture: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    running = serve()
    client = running.client()
    photo = client.upload(picture())

    def fail(photo: Any) -> str:
        raise ValueError

    monkeypatch.setattr(running.engine, "describe", fail)
    running.studio.store.want_caption(client.cookies["stylescore_session"], photo)
    end = time.monotonic() + 20
    while client.ask("GET", f"/api/photos/{photo}/caption").json["waiting"]:
        assert time.monotonic() < end
        time.sleep(0.05)
    client.wait(client.begin(photo)[0]["id"])
