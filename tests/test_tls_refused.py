"""Until the channel speaks TLS, asking for it is an error before the first byte."""

from __future__ import annotations

import socket

import pytest

import coordkit


class TestTls:
    @pytest.mark.parametrize("url", ["etcds://user:secret@{}/ns", "https://{}", ["127.0.0.1:1", "https://{}"]])
    def test_where_tls_is_asked_for_nothing_is_sent_in_the_clear(self, url):
        """
        A URL that wants TLS is refused; its server is not even dialled, and its password is not shown.
        """
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.setblocking(False)
            here = "{}:{}".format(*server.getsockname())
            where = url.format(here) if isinstance(url, str) else [each.format(here) for each in url]

            with pytest.raises(coordkit.InvalidValue, match="TLS") as refusal:
                coordkit.connect(where)

            with pytest.raises(BlockingIOError):
                server.accept()

        assert "secret" not in str(refusal.value)
