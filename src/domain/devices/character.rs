//! Character devices: channels to the guest, serial ports, consoles, USB redirection.

use crate::domain::Alias;
use crate::domain::elements::elements;

elements! {
    /// `<channel>`.
    pub struct Channel {
        type_: String = "Type" [attr "type"];
        source: Option<ChannelSource> = "Source" [child "source"];
        target: Option<ChannelTarget> = "Target" [child "target"];
    }

    /// `channel/source`: host side of a channel.
    pub struct ChannelSource {
        mode: String = "Mode" [attr "mode"];
        path: String = "Path" [attr "path"];
    }

    /// `channel/target`: guest side of a channel; `state` says whether the guest has opened it.
    pub struct ChannelTarget {
        name: String = "Name" [attr? "name"];
        type_: String = "Type" [attr "type"];
        address: String = "Address" [attr? "address"];
        port: u64 = "Port" [attr? "port"];
        state: String = "State" [attr? "state"];
    }

    /// `<serial>`.
    pub struct Serial {
        type_: String = "Type" [attr "type"];
        target: Option<SerialTarget> = "Target" [child "target"];
        source: Option<SerialSource> = "Source" [child "source"];
        alias: Option<Alias> = "Alias" [child "alias"];
        log: Option<SerialLog> = "Log" [child "log"];
    }

    /// `serial/target`: number of the port.
    pub struct SerialTarget {
        port: Option<u64> = "Port" [attr "port"];
    }

    /// `serial/source`: the socket.
    pub struct SerialSource {
        mode: String = "Mode" [attr? "mode"];
        path: String = "Path" [attr? "path"];
    }

    /// `serial/log`: file that receives what the guest writes.
    pub struct SerialLog {
        file: String = "File" [attr? "file"];
        append: String = "Append" [attr? "append"];
    }

    /// `<console>`.
    pub struct Console {
        type_: String = "Type" [attr "type"];
        target: Option<ConsoleTarget> = "Target" [child "target"];
        source: Option<ConsoleSource> = "Source" [child "source"];
        alias: Option<Alias> = "Alias" [child "alias"];
    }

    /// `console/target`: which device the console is.
    pub struct ConsoleTarget {
        type_: Option<String> = "Type" [attr "type"];
        port: Option<u64> = "Port" [attr "port"];
    }

    /// `console/source`: the socket.
    pub struct ConsoleSource {
        mode: String = "Mode" [attr? "mode"];
        path: String = "Path" [attr? "path"];
    }

    /// `<redirdev>`: USB redirection.
    pub struct RedirectedDevice {
        type_: String = "Type" [attr "type"];
        bus: String = "Bus" [attr "bus"];
        source: RedirectedDeviceSource = "Source" [child "source"];
    }

    /// `redirdev/source`: the socket.
    pub struct RedirectedDeviceSource {
        mode: String = "Mode" [attr "mode"];
        path: String = "Path" [attr "path"];
    }
}
