"""Packs an installed pure-Python module as a wheel, so that pip can install it offline.

    wheel.py DIST_PACKAGES NAME OUT_DIR

Takes DIST_PACKAGES/NAME.py (or the package NAME) and the version from its egg-info.
"""

import base64
import hashlib
import pathlib
import re
import sys
import zipfile


def main(source: pathlib.Path, name: str, out: pathlib.Path) -> None:
    (info,) = source.glob(f"{name}-*.egg-info")
    metadata = (info / "PKG-INFO" if info.is_dir() else info).read_text()
    version = re.search(r"^Version: (.+)$", metadata, re.M).group(1).strip()
    module = source / f"{name}.py"
    files = [module] if module.exists() else sorted((source / name).rglob("*.py"))
    dist = f"{name}-{version}.dist-info"
    content = {str(f.relative_to(source)): f.read_bytes() for f in files}
    content[f"{dist}/METADATA"] = metadata.encode()
    content[f"{dist}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: orlop\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = []
    for path, data in content.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record.append(f"{path},sha256={digest},{len(data)}")
    record.append(f"{dist}/RECORD,,")
    content[f"{dist}/RECORD"] = ("\n".join(record) + "\n").encode()
    with zipfile.ZipFile(out / f"{name}-{version}-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        for path, data in content.items():
            wheel.writestr(path, data)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3]))
