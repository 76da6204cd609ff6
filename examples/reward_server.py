"""A reward in a process of its own, with any packages: python examples/reward_server.py 8123, then
milr generate "a photo of a dog" --reward http://localhost:8123/score
"""

import base64
import io
import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

from PIL import Image, ImageStat

WHO = {"protocol": "milr-reward/1", "reward": "colourful@1", "stop_at": 0.9}


def score(item):  # your reward goes here: item["task"]["prompt"] says what the image should show
    image = Image.open(io.BytesIO(base64.b64decode(item["picture"])))
    spread = sum(ImageStat.Stat(image).stddev) / (3 * 128)
    return {"value": min(1.0, spread), "explanation": "how far the colours are apart"}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self, answer=WHO):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def do_POST(self):
        items = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["items"]
        self.do_GET({**WHO, "scores": [score(item) for item in items]})


if __name__ == "__main__":
    HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
