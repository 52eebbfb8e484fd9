from prunella.data.manifest import Sample, batched, read_sample_manifest, write_sample_manifest


def test_a_manifest_comes_back_as_it_was(tmp_path):
    odd = "an \u2028 odd \x85 line, \U0001f600, \u202eright to left"
    pairs = [
        Sample("a.png", "ein Bär", 5, 7, "0f"),
        Sample("b.png", 'a "quoted"\nline', 1, 1, ""),
        Sample("c", odd, 2, 2, ""),
    ]
    pairs.append(Sample("d", ["one", "two"], 3, 3, "1"))
    write_sample_manifest(tmp_path / "m", {"source": "folder", "path": "x"}, pairs)
    assert read_sample_manifest(tmp_path / "m") == ({"source": "folder", "path": "x"}, pairs)


def test_a_pair_has_one_caption_or_several():
    assert Sample("a", "one", 1, 1, "").captions == ["one"]
    assert Sample("a", ["one", "two"], 1, 1, "").captions == ["one", "two"]


def test_chunks_leave_nothing_out():
    assert list(batched([1, 2, 3, 4, 5], 2)) == [[1, 2], [3, 4], [5]]
    assert list(batched([], 2)) == []
