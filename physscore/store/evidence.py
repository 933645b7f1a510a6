"""placeholder"""


class EvidenceWriter:
    def __init__(self, *a, **k):
        raise NotImplementedError
