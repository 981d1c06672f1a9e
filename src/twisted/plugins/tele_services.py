"""Which services does twistd get from us? Named here, imported when one is run."""

from twisted.application.service import ServiceMaker

tele_auth = ServiceMaker("tele auth", "tele.tap.auth", "The auth of a tele cluster", "tele-auth")
tele_proxy = ServiceMaker("tele proxy", "tele.tap.proxy", "A tele proxy", "tele-proxy")
tele_node = ServiceMaker("tele node", "tele.tap.node", "A tele node", "tele-node")
tele_all = ServiceMaker(
    "tele", "tele.tap.every", "All parts of tele that the configuration has", "tele"
)
