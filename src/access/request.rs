//! Classifies a request by the headers with which a browser describes where it comes from.

/// The method and the headers that show where a request comes from. A header that is absent or can't be read is an empty string.
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
    /// `Sec-Purpose`, which contains `prefetch` for prefetches.
    pub purpose: &'a str,
    /// `Accept`.
    pub accept: &'a str,
}

impl Provenance<'_> {
    /// Whether the request comes from a page of the same host, or from a user who typed the address or followed a link. `SameSite`
    /// cookies can't show that, because all of csm's hosts are the same site.
    pub fn is_own(&self, site_origin: &str) -> bool {
        let is_read = matches!(self.method, "GET" | "HEAD");
        if !is_read || !self.upgrade.is_empty() {
            return self.origin == site_origin;
        }
        let is_foreign = matches!(self.fetch_site, "same-site" | "cross-site");
        let origin_matches = self.origin.is_empty() || self.origin == site_origin || self.fetch_mode == "navigate";
        let is_framed = matches!(self.fetch_dest, "iframe" | "frame" | "embed" | "object" | "fencedframe");
        // A page of another host can make the browser prefetch this host's pages, before the user follows a link.
        let is_visit = self.fetch_mode == "navigate" && !is_framed && !self.purpose.contains("prefetch");
        origin_matches && (!is_foreign || is_visit)
    }

    /// Whether a user opens a page. False for assets, reconnecting WebSockets, prefetches and programs.
    pub fn is_navigation(&self) -> bool {
        let is_page = match self.fetch_mode {
            "navigate" => true,
            // Browsers send Sec-Fetch-Mode only to hosts with HTTPS and to localhost.
            "" => self.accept.contains("text/html"),
            _ => false,
        };
        is_page && self.method == "GET" && self.upgrade.is_empty() && !self.purpose.contains("prefetch")
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
            assert!(from.is_own(OWN), "a followed link");
            from.purpose = "prefetch;prerender";
            assert!(!from.is_own(OWN), "a prefetch");
        }
        assert!(!own(|from| (from.fetch_site, from.fetch_mode) = ("cross-site", "cors")));
        assert!(!own(|from| from.origin = "https://alice.code.example.org"));
    }

    #[test]
    fn only_a_user_opening_a_page_is_a_navigation() {
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
