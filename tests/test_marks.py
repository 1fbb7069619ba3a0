from base64 import urlsafe_b64encode

from reaction.marks import forget


def mark(folder, name, cut=None):
    code = urlsafe_b64encode(name.encode()).decode()
    path = folder / code if cut is None else folder / f"@{code[:cut]}" / code[cut:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{"external_jobid": null}')
    return path


def test_marks_of_artifacts_are_forgotten_and_those_of_tables_kept(tmp_path):
    shard, long = "results/features/synthetic/rgb-00000000/shard-000.h5", f"results/models/synthetic/{'a' * 250}/x"
    marks = [mark(tmp_path, shard), mark(tmp_path, long, cut=254)]
    kept = [mark(tmp_path, "results/tables/synthetic.csv"), tmp_path / "migration_underway"]
    kept[1].touch()
    assert forget(("features", "models"), tmp_path) == sorted((shard, long))
    assert not any(path.exists() for path in marks)
    assert all(path.exists() for path in kept)


def test_nothing_is_there_to_forget(tmp_path):
    assert forget(("features",), tmp_path / "absent") == []
