"""LitServe with our classifier, for ``benchmarks.serve``.

    python -m benchmarks.serve_litserve RUN PORT

Photos are decoded and computed in its worker process, in batches of 16 with a delay of 5 ms. The
batches are padded to powers of two by ``Classifier.predict``.
"""

import base64
import sys

import litserve
import numpy as np

BATCH = 16


class Api(litserve.LitAPI):
    """A classifier behind LitServe."""

    source: str

    def setup(self, device):
        import flax_resnet as fr

        fr.tune_cpu()
        self.classifier = fr.load(self.source)
        transform = self.classifier.transform
        self.predict([np.zeros((transform.height, transform.width, 3), np.uint8)])

    def decode_request(self, request):
        from flax_resnet.data.images import load_image

        return load_image(base64.b64decode(request["images"][0]), self.classifier.transform)

    def batch(self, inputs):
        return inputs

    def predict(self, images):
        from flax_resnet.data import Split

        split = Split(np.stack(images), np.zeros(len(images), np.int32))
        return self.classifier.predict(split, batch_size=BATCH).top(5)

    def unbatch(self, output):
        return output

    def encode_response(self, output):
        return [{"predictions": [vars(prediction) for prediction in output]}]


def main():
    api = Api(max_batch_size=BATCH, batch_timeout=0.005)
    api.source = sys.argv[1]
    server = litserve.LitServer(api, accelerator="cpu", timeout=600)
    server.run(port=int(sys.argv[2]), log_level="error", generate_client_file=False)


if __name__ == "__main__":
    main()
