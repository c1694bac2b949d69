"""Layouts of public datasets, and tables of one's own: which scans they hold, and whose."""

from __future__ import annotations

import pytest

from LesionDiffusionLib.datasets.layouts import LAYOUTS, instance22, kits23, msd, released, table
from LesionDiffusionLib.errors import DatasetError


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_kits23_in_both_forms(tmp_path):
    touch(tmp_path, "dataset/case_00001/imaging.nii.gz", "dataset/case_00001/segmentation.nii.gz")
    (scan,) = kits23(tmp_path)
    assert (scan.name, scan.lesions, scan.organ_values) == (
        "case_00001",
        {2: "kidney cancer", 3: "kidney cyst"},
        (1, 2, 3),
    )
    assert scan.image == tmp_path / "dataset/case_00001/imaging.nii.gz"
    touch(tmp_path / "masks", "case_00002.nii.gz")
    (scan,) = kits23(tmp_path / "masks")
    assert (scan.name, scan.image) == ("case_00002", None)


@pytest.mark.parametrize(
    ("task", "organ", "value", "kind"),
    [
        ("Task03_Liver", "liver", 2, "liver cancer"),
        ("Task06_Lung", "lung", 1, "lung cancer"),
        ("Task07_Pancreas", "pancreas", 2, "pancreas cancer"),
        ("Task10_Colon", "colon", 1, "colon cancer"),
    ],
)
def test_msd_tasks(tmp_path, task, organ, value, kind):
    touch(tmp_path / task, "imagesTr/x_001.nii.gz", "labelsTr/x_001.nii.gz", "labelsTr/._x_001.nii.gz")
    (scan,) = msd(tmp_path / task)
    assert (scan.organ, scan.lesions, scan.image.name) == (organ, {value: kind}, "x_001.nii.gz")


def test_instance22(tmp_path):
    touch(tmp_path, "train_2/data/001.nii.gz", "train_2/label/001.nii.gz")
    (scan,) = instance22(tmp_path)
    assert (scan.organ, scan.enhancement, scan.image.parent.name) == ("brain", "non-contrast CT", "data")


def test_the_released_lists(tmp_path):
    lists = {"img_list.txt": "img.nii.gz", "label_list.txt": "label.nii.gz", "type_list.txt": "type.json"}
    for name, line in lists.items():
        (tmp_path / name).write_text(f"\nLiver/cancer/7/{line}\n\n")
    (scan,) = released(tmp_path)
    assert scan.report == tmp_path / "Liver/cancer/7/type.json"
    assert (scan.lesions, scan.patient, scan.organs) == ({2: None}, "Liver/cancer/7", None)
    assert scan.numbering is None, "it is that of the lists' own organ maps"
    (tmp_path / "seg_list.txt").write_text("a\nb\n")
    with pytest.raises(DatasetError, match="not aligned: 1 labels and 2 of seg"):
        released(tmp_path)


def test_names_of_the_released_lists_tell_all_scans_apart(tmp_path):
    def names(*lines: str) -> list[str]:
        (tmp_path / "label_list.txt").write_text("\n".join(lines))
        return [scan.name for scan in released(tmp_path)]

    organs = [f"{organ}/cancer/001/label.nii.gz" for organ in ("Liver", "Lung")]
    assert names(organs[0], "Liver/cancer/002/label.nii.gz") == ["cancer_001_label", "cancer_002_label"]
    assert names(*organs) == ["Liver_cancer_001_label", "Lung_cancer_001_label"]
    assert names(*(f"/{line}" for line in organs)) == ["Liver_cancer_001_label", "Lung_cancer_001_label"]
    with pytest.raises(DatasetError, match="several scans are called Liver_cancer_001_label"):
        names(organs[0], organs[0])


def test_a_folder_of_the_released_lists_is_a_patient_unless_it_holds_too_many(tmp_path):
    def patients(*lines: str) -> list[str]:
        (tmp_path / "label_list.txt").write_text("\n".join(lines))
        return [scan.patient for scan in released(tmp_path)]

    twice = [f"Liver/{n}/{phase}.nii.gz" for n in range(5) for phase in ("early", "late")]
    assert patients(*twice) == [f"Liver/{n}" for n in range(5) for _ in range(2)]
    flat = [f"{organ}/{n}.nii.gz" for organ in ("liver", "lung") for n in range(4)]
    assert patients(*flat) == flat, "half of all scans cannot be one patient's"
    few = [f"Liver/{n}/{phase}.nii.gz" for n in range(2) for phase in ("early", "late")]
    assert patients(*few) == ["Liver/0", "Liver/0", "Liver/1", "Liver/1"], "nor may one be split where there are few"
    (tmp_path / "label_list.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match=r"cannot read the list .* in UTF-8"):
        released(tmp_path)


def test_layouts_say_what_they_expect(tmp_path):
    for name in ("kits23", "instance22", "released"):
        with pytest.raises(DatasetError, match=r"no scan found in .* expected"):
            LAYOUTS[name](tmp_path)
    with pytest.raises(DatasetError, match="expected one task's folder, Task03_Liver"):
        msd(tmp_path)
    with pytest.raises(DatasetError, match="cannot read the table"):
        table(tmp_path / "absent.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label,colour\na.nii.gz,red\n", "expected columns among name, .* got colour"),
        ("image\na.nii.gz\n", "line 2 of the table has no label"),
        ("label,image\n,a.nii.gz\n", "line 2 of the table has no label"),
        ("label\na.nii.gz,b.nii.gz\n", "line 2 has more cells than the header"),
        ('label,image\n"a\nb.nii.gz",c.nii.gz\n,d.nii.gz\n', "line 4 of the table has no label"),
        ("label,lesion_value\na.nii.gz,two\n", "line 2 of the table: label values are whole numbers"),
        ("label\na/x.nii.gz\nb/x.nii.gz\n", "several scans are called x"),
        ("label\n", "no scan found"),
        ("label,name\na.nii.gz,site1/p1\n", 'line 2 of the table: expected a plain name, got "site1/p1"'),
        ("label,enhancement\na.nii.gz,sideways\n", "line 2 of the table: .*sideways"),
        ("label,lesion_type\na.nii.gz,liver cyst\nb.nii.gz,liver cystt\n", "line 3 of the table: .*liver cystt"),
        ("label,organ\na.nii.gz,kidny\n", "line 2 of the table: .*kidny"),
        ("label,numbering\na.nii.gz,totalseg_v3\n", 'line 2 of the table: unknown numbering "totalseg_v3"'),
    ],
)
def test_a_table_that_cannot_be_used_is_explained(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DatasetError, match=message):
        table(tmp_path / "t.csv")


def test_rows_of_one_file_are_one_patient(tmp_path):
    def rows(text: str) -> list[tuple]:
        (tmp_path / "t.csv").write_text(text)
        return [(scan.name, scan.patient, dict(scan.lesions)) for scan in table(tmp_path / "t.csv")]

    one_map = "label,lesion_value,lesion_type\nx.nii.gz,2,kidney cancer\nx.nii.gz,3,kidney cyst\n"
    assert rows(one_map) == [("x", "x", {2: "kidney cancer", 3: "kidney cyst"})]
    named = "name,label,lesion_value\ntumor,x.nii.gz,2\ncyst,sub/../x.nii.gz,3\n"
    assert [patient for _, patient, _ in rows(named)] == ["tumor", "tumor"]
    chain = "name,image,label\na,1.nii.gz,a.nii.gz\nb,2.nii.gz,b.nii.gz\nc,2.nii.gz,a.nii.gz\nd,3.nii.gz,d.nii.gz\n"
    assert [patient for _, patient, _ in rows(chain)] == ["a", "a", "a", "d"], "the third row shares with both"
    told = "name,patient,image,label\na,,1.nii.gz,a.nii.gz\nb,p7,1.nii.gz,b.nii.gz\n"
    assert [patient for _, patient, _ in rows(told)] == ["p7", "p7"]
    with pytest.raises(DatasetError, match="several rows for the scan x and the label 2; keep one"):
        rows("label,lesion_value\nx.nii.gz,2\nx.nii.gz,2\n")
