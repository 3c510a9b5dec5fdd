//! What a person sees, hears and types with: video, graphics, sound, input.

use crate::domain::elements::elements;
use crate::domain::{Address, Alias};

elements! {
    /// `<video>`.
    pub struct Video {
        model: VideoModel = "Model" [child "model"];
    }

    /// `video/model`: kind of video card; memory in KiB.
    pub struct VideoModel {
        type_: String = "Type" [attr "type"];
        heads: Option<u64> = "Heads" [attr "heads"];
        ram: Option<u64> = "Ram" [attr "ram"];
        vram: Option<u64> = "VRam" [attr "vram"];
        vga_mem: Option<u64> = "VGAMem" [attr "vgamem"];
    }

    /// `<graphics>`.
    pub struct Graphics {
        auto_port: String = "AutoPort" [attr? "autoport"];
        default_mode: String = "DefaultMode" [attr? "defaultMode"];
        listen: Option<GraphicsListen> = "Listen" [child "listen"];
        passwd_valid_to: String = "PasswdValidTo" [attr? "passwdValidTo"];
        port: i32 = "Port" [attr? "port"];
        tls_port: i64 = "TLSPort" [attr? "tlsPort"];
        type_: String = "Type" [attr "type"];
    }

    /// `graphics/listen`: where the display listens.
    pub struct GraphicsListen {
        type_: String = "Type" [attr "type"];
        address: String = "Address" [attr? "address"];
        network: String = "Network" [attr? "newtork"];
        socket: String = "Socket" [attr? "socket"];
    }

    /// `<sound>`.
    pub struct SoundCard {
        alias: Option<Alias> = "Alias" [child "alias"];
        model: String = "Model" [attr "model"];
    }

    /// `<input>`.
    pub struct Input {
        type_: String = "Type" [attr "type"];
        bus: String = "Bus" [attr "bus"];
        alias: Option<Alias> = "Alias" [child "alias"];
        address: Option<Address> = "Address" [child "address"];
        model: String = "Model" [attr? "model"];
    }
}
