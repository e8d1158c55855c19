//! What a browser says of its own request, and what follows.

/// The headers that tell where a request comes from, as text; absent or unreadable ones are empty.
#[derive(Debug, Clone, Copy, Default)]
pub struct Provenance<'a> {
    /// The method.
    pub method: &'a str,
    /// `Upgrade`.
    pub upgrade: &'a str,
    /// `Origin`.
    pub origin: &'a str,
    /// `Sec-Fetch-Site`.
    pub fetch_site: &'a str,
    /// `Sec-Fetch-Mode`.
    pub fetch_mode: &'a str,
    /// `Sec-Fetch-Dest`.
    pub fetch_dest: &'a str,
    /// `Sec-Purpose`: prefetches.
    pub purpose: &'a str,
    /// `Accept`.
    pub accept: &'a str,
}

impl Provenance<'_> {
    /// Whether our own pages, or a person in the address bar or on a link, sent this. Siblings are same-site, so neither `SameSite`
    /// nor a cookie tells.
    pub fn is_own(&self, site_origin: &str) -> bool {
        let reads = matches!(self.method, "GET" | "HEAD");
        if !reads || !self.upgrade.is_empty() {
            return self.origin == site_origin;
        }
        let foreign = matches!(self.fetch_site, "same-site" | "cross-site");
        let origin_fits = self.origin.is_empty() || self.origin == site_origin || self.fetch_mode == "navigate";
        let framed = matches!(self.fetch_dest, "iframe" | "frame" | "embed" | "object" | "fencedframe");
        // A page of another host can have ours fetched in advance, which nobody has asked for yet.
        let visited = self.fetch_mode == "navigate" && !framed && !self.purpose.contains("prefetch");
        origin_fits && (!foreign || visited)
    }

    /// Whether a person waits for a page: not an asset, a reconnect, a prefetch or a program.
    pub fn is_navigation(&self) -> bool {
        let page = match self.fetch_mode {
            "navigate" => true,
            // Browsers send Sec-Fetch-Mode to trustworthy hosts alone.
            "" => self.accept.contains("text/html"),
            _ => false,
        };
        page && self.method == "GET" && self.upgrade.is_empty() && !self.purpose.contains("prefetch")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "https://dan.code.example.org";

    fn own(change: fn(&mut Provenance<'_>)) -> bool {
        let mut from = Provenance { method: "GET", ..Provenance::default() };
        change(&mut from);
        from.is_own(OWN)
    }

    #[test]
    fn writes_and_websockets_need_the_exact_origin() {
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "get", ""] {
            let mut from = Provenance { method, ..Provenance::default() };
            assert!(!from.is_own(OWN), "{method} without an origin");
            from.origin = OWN;
            assert!(from.is_own(OWN), "{method}");
        }
        let origins = [
            "",
            "null",
            "https://alice.code.example.org",
            "https://code.example.org",
            "http://dan.code.example.org",
            "https://DAN.code.example.org",
            "https://dan.code.example.org:8443",
            "https://dan.code.example.org.evil.org",
        ];
        for origin in origins {
            for upgrade in ["websocket", "WebSocket", "h2c"] {
                let from = Provenance { method: "GET", upgrade, origin, ..Provenance::default() };
                assert!(!from.is_own(OWN), "{upgrade} from {origin:?}");
            }
        }
        assert!(Provenance { method: "GET", upgrade: "websocket", origin: OWN, ..Provenance::default() }.is_own(OWN));
    }

    #[test]
    fn a_sibling_can_link_but_not_embed_or_fetch() {
        assert!(own(|from| from.fetch_site = "same-origin"));
        assert!(own(|from| from.fetch_site = "none"));
        assert!(own(|from| (from.fetch_site, from.fetch_mode) = ("same-site", "navigate")));
        assert!(!own(|from| (from.fetch_site, from.fetch_mode, from.fetch_dest) = ("same-site", "navigate", "iframe")));
        assert!(
            own(|from| (from.fetch_site, from.fetch_mode, from.fetch_dest) = ("same-origin", "navigate", "iframe"))
        );
        assert!(!own(|from| (from.fetch_site, from.fetch_mode) = ("same-site", "no-cors")));
        for site in ["same-site", "cross-site"] {
            let mut from =
                Provenance { method: "GET", fetch_site: site, fetch_mode: "navigate", ..Provenance::default() };
            assert!(from.is_own(OWN), "a link");
            from.purpose = "prefetch;prerender";
            assert!(!from.is_own(OWN), "in advance");
        }
        assert!(!own(|from| (from.fetch_site, from.fetch_mode) = ("cross-site", "cors")));
        assert!(!own(|from| from.origin = "https://alice.code.example.org"));
    }

    #[test]
    fn only_people_waiting_for_a_page_navigate() {
        let navigates = |change: fn(&mut Provenance<'_>)| {
            let mut from = Provenance { method: "GET", fetch_mode: "navigate", ..Provenance::default() };
            change(&mut from);
            from.is_navigation()
        };
        assert!(navigates(|_| ()));
        assert!(navigates(|from| (from.fetch_mode, from.accept) = ("", "text/html,*/*")));
        assert!(!navigates(|from| from.fetch_mode = "no-cors"));
        assert!(!navigates(|from| from.fetch_mode = "websocket"));
        assert!(!navigates(|from| from.fetch_mode = ""));
        assert!(!navigates(|from| from.method = "POST"));
        assert!(!navigates(|from| from.upgrade = "websocket"));
        assert!(!navigates(|from| from.purpose = "prefetch;prerender"));
    }
}
