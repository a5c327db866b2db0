"""Send a mail to each new member: `supawire worker run welcome_mail:app`.

Needs the table of `TABLES` and SUPAWIRE_URL, SUPAWIRE_KEY, SUPAWIRE_DATABASE_URL, SMTP_HOST and SMTP_PORT. A mail
cannot be part of a transaction, so it may be sent twice when this program is killed between the mail and the update of
the row. Both have the same Message-ID, by which mail programs recognize the second one.
"""

import os
import smtplib
from email.message import EmailMessage

from supawire import Backoff, col
from supawire.worker import Job, Worker

TABLES = """
create table members (
  id bigint primary key generated always as identity,
  email text not null,
  name text not null,
  welcome text not null default 'pending'
);
alter publication supabase_realtime add table members;
"""

app = Worker(os.environ["SUPAWIRE_URL"], os.environ["SUPAWIRE_KEY"], database=os.environ["SUPAWIRE_DATABASE_URL"])


@app.job(
    "members",
    where=col("welcome") == "pending",
    claim={"welcome": "sending"},
    done={"welcome": "sent"},
    failed={"welcome": "failed"},
    retry=Backoff(initial=0.5, maximum=600),
    timeout=60,
)
def send_welcome(job: Job) -> None:
    """Send the mail. A server that is busy is asked again later; an address that it refuses is not."""
    message = EmailMessage()
    message["From"] = "welcome@example.com"
    message["To"] = job.row["email"]
    message["Subject"] = f"Welcome, {job.row['name']}"
    message["Message-ID"] = f"<welcome-{job.key}@example.com>"
    message.set_content("Your account is ready.")
    try:
        with smtplib.SMTP(os.environ["SMTP_HOST"], int(os.environ["SMTP_PORT"]), timeout=30) as server:
            server.send_message(message)
    except smtplib.SMTPRecipientsRefused as error:
        (code, text), *_ = error.recipients.values()
        if code >= 500:
            job.fail(f"the address was refused: {code} {text.decode()}")
        raise


if __name__ == "__main__":
    app.run()
