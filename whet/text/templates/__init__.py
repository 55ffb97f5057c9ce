"""The chat templates that come with whet, one small file each, from their public formats."""

from whet.text.templates.chatml import CHATML

BUNDLED = {"chatml": CHATML}
