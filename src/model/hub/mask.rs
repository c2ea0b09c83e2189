//! Messages without the token, and without the user and password of `HF_ENDPOINT`: a
//! hub, or a mirror, may repeat in an error what it was sent.

use reqwest::Url;

/// Shorter texts may stand in a message by chance.
const WORTH_HIDING: usize = 6;

/// What no message may hold.
pub(super) struct Mask(Vec<String>);

impl Mask {
    pub fn of(token: Option<&str>, endpoint: &Url) -> Mask {
        let user = endpoint.username();
        let mut secrets: Vec<String> = token.map(str::to_owned).into_iter().collect();
        if let Some(password) = endpoint.password() {
            secrets.push(format!("{user}:{password}"));
            secrets.push(password.to_owned());
        }
        // A token may stand where a user does.
        secrets.push(user.to_owned());
        secrets.retain(|s| s.len() >= WORTH_HIDING);
        Mask(secrets)
    }

    pub fn hide(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, secret| text.replace(secret, "***"))
    }
}

/// An address as it may be shown: without user and password, nor a slash at the end.
pub(super) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // Refused only by addresses that cannot have any.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.as_str().trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_token_nor_password_is_shown() {
        let url = Url::parse("http://me:SESAME@h:1/hub/").unwrap();
        assert_eq!(shown(&url), "http://h:1/hub");
        let mask = Mask::of(Some("hf_SESAME2"), &url);
        let said = mask.hide("no access for hf_SESAME2 at http://me:SESAME@h:1");
        assert_eq!(said, "no access for *** at http://***@h:1");
    }
}
