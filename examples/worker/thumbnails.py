"""Make a thumbnail of each uploaded image, in the database itself: `supawire worker run thumbnails:app`.

Needs the table of `TABLES` and SUPAWIRE_URL, SUPAWIRE_KEY, SUPAWIRE_DATABASE_URL. Images are binary PPM files here, so
that the example needs no library; with Pillow, `shrink` is three lines.
"""

import os

from supawire import col
from supawire.worker import Job, Worker

TABLES = """
create table images (
  id bigint primary key generated always as identity,
  status text not null default 'pending',
  picture bytea not null,
  thumbnail bytea,
  width int,
  height int
);
alter publication supabase_realtime add table images;
"""

app = Worker(os.environ["SUPAWIRE_URL"], os.environ["SUPAWIRE_KEY"], database=os.environ["SUPAWIRE_DATABASE_URL"])


@app.job("images", where=col("status") == "pending", claim={"status": "running"}, concurrency=2, timeout=60)
def make_thumbnail(job: Job) -> None:
    """Write thumbnail and size. A plain function runs on a thread of its own, so that it may use the CPU for long."""
    try:
        width, height, pixels = read_ppm(job.row["picture"])
    except ValueError as error:
        job.fail(f"not a picture: {error}")  # another attempt would change nothing
    with job.transaction() as connection:
        connection.execute(
            "update images set thumbnail = %s, width = %s, height = %s where id = %s",
            [shrink(width, height, pixels, 4), width, height, job.key],
        )


def read_ppm(picture: bytes) -> tuple[int, int, bytes]:
    """Return width, height and the pixels, three bytes each. Raises: ValueError when it is not such a file."""
    kind, *numbers = picture.split(maxsplit=4)[:4]
    width, height, depth = map(int, numbers)
    pixels = picture[-3 * width * height :]
    if kind != b"P6" or depth != 255 or len(pixels) != 3 * width * height:
        raise ValueError("a binary PPM with 8 bits per colour is expected")
    return width, height, pixels


def shrink(width: int, height: int, pixels: bytes, factor: int) -> bytes:
    """Return a PPM file with every `factor`-th pixel of every `factor`-th line."""
    rows = range(0, height, factor)
    columns = range(0, width, factor)
    kept = b"".join(pixels[3 * (row * width + column) :][:3] for row in rows for column in columns)
    return b"P6 %d %d 255\n" % (len(columns), len(rows)) + kept


if __name__ == "__main__":
    app.run()
