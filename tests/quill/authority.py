"""A certificate authority for one test run, made with the openssl command."""

import shutil
import subprocess

import pytest


def _openssl(*args, cwd):
    subprocess.run(["openssl", *args], cwd=cwd, check=True, capture_output=True)


class Authority:
    """`ca` vouches for `server` (127.0.0.1, localhost), `wrong` (other.test), `expired`, `client`, not `stranger`."""

    def __init__(self, folder):
        if shutil.which("openssl") is None:
            pytest.skip("the openssl command is not installed")
        self.folder = folder
        self._key("ca")
        _openssl(
            "req", "-x509", "-new", "-key", "ca.key", "-days", "30", "-subj", "/CN=test authority", "-out", "ca.pem",
            "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
            cwd=folder,
        )  # fmt: skip
        self._signed("server", "subjectAltName=IP:127.0.0.1,DNS:localhost")
        self._signed("wrong", "subjectAltName=DNS:other.test")
        self._signed("client", "extendedKeyUsage=clientAuth")
        self._signed("expired", "subjectAltName=IP:127.0.0.1", expired=True)
        self._key("stranger")
        _openssl("req", "-x509", "-new", "-key", "stranger.key", "-days", "30", "-subj", "/CN=stranger", "-out",
                 "stranger.pem", "-addext", "subjectAltName=IP:127.0.0.1", cwd=folder)  # fmt: skip
        _openssl("pkey", "-in", "client.key", "-aes256", "-passout", "pass:sesame", "-out", "locked.key", cwd=folder)

    def _key(self, name):
        _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", f"{name}.key",
                 cwd=self.folder)  # fmt: skip

    def _signed(self, name, extension, expired=False):
        self._key(name)
        (self.folder / "extension").write_text(extension + "\n")
        _openssl("req", "-new", "-key", f"{name}.key", "-subj", f"/CN={name}", "-out", f"{name}.csr", cwd=self.folder)
        if expired:  # `openssl x509` learned to set dates only lately
            (self.folder / "index.txt").write_text("")
            (self.folder / "serial").write_text("01\n")
            (self.folder / "ca.cnf").write_text(
                "[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\nserial=serial\nnew_certs_dir=.\ndefault_md=sha256\n"
                "policy=p\nunique_subject=no\n[p]\ncommonName=supplied\n"
            )
            _openssl("ca", "-batch", "-config", "ca.cnf", "-cert", "ca.pem", "-keyfile", "ca.key", "-in", f"{name}.csr",
                     "-startdate", "20200101000000Z", "-enddate", "20200102000000Z", "-extfile", "extension", "-notext",
                     "-out", f"{name}.pem", cwd=self.folder)  # fmt: skip
            return
        _openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                 "-days", "30", "-extfile", "extension", "-out", f"{name}.pem", cwd=self.folder)  # fmt: skip

    def __call__(self, name):
        return str(self.folder / name)

    def server_context(self, name="server", *, ask_client=False, version=None):
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self(f"{name}.pem"), self(f"{name}.key"))
        if ask_client:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self("ca.pem"))
        if version is not None:
            context.minimum_version = context.maximum_version = version
        return context
