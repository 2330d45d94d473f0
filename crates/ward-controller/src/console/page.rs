//! What the console shows.

use jiff::Timestamp;
use maud::{DOCTYPE, Markup, html};
use ward_types::{Event, HostMode, Power, Problem, Severity, TaskState};

use crate::api::auth::Caller;
use crate::api::events;
use crate::api::hosts;
use crate::api::providers;
use crate::api::tasks;
use crate::api::types::{HostState, HostView, Light, ProviderView, TaskQuery, TaskView, VmView};
use crate::api::vms;
use crate::authz::Sight;
use crate::controller::Controller;

fn frame(refresh: bool, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                @if refresh { meta http-equiv="refresh" content="5"; }
                title { "Ward" }
                link rel="stylesheet" href="/style.css";
            }
            body { (body) }
        }
    }
}

pub(super) fn login(problem: Option<&Problem>) -> Markup {
    frame(
        false,
        &html! {
            form.login method="post" action="/login" {
                h1 { "Ward" }
                @if let Some(problem) = problem { p.bad { (problem.why) ". " (problem.remedy) } }
                input name="user" value="admin" placeholder="user" autocomplete="username" required;
                input name="password" type="password" placeholder="password" autocomplete="current-password" required
                    autofocus;
                button { "Log in" }
            }
        },
    )
}

pub(super) fn problem(problem: &Problem) -> Markup {
    frame(
        false,
        &html! {
            h1 { (problem.what) }
            p.bad { (problem.why) }
            p { (problem.remedy) }
            p.dim { code { (problem.code) } }
        },
    )
}

pub(super) async fn status(controller: &Controller, caller: &Caller) -> Result<Markup, Problem> {
    let sight = Sight::of(controller, caller.clone()).await?;
    let hosts = hosts::all(controller, &sight).await?;
    let vms = vms::all(controller, &sight).await?;
    let providers = providers::all(controller, &sight).await?;
    let (tasks, _) = tasks::newest(controller, &sight, &TaskQuery::default(), 10).await?;
    let mut events = events::newest(controller, &sight, 30).await?;
    events.reverse();
    Ok(frame(
        true,
        &html! {
            header {
                h1 { "Ward" }
                span.dim { (vms.len()) " VMs, " (vms.iter().filter(|vm| vm.encrypted).count()) " encrypted, "
                    (hosts.len()) " hosts" }
                form method="post" action="/logout" { span.dim { (caller.user()) " " } button { "Log out" } }
            }
            (vm_table(&vms))
            (host_table(&hosts))
            (provider_table(&providers))
            (task_table(&tasks))
            (event_table(&events))
        },
    ))
}

fn vm_table(vms: &[VmView]) -> Markup {
    html! {
        h2 { "Virtual machines" }
        table {
            tr { th { "Name" } th { "Power" } th { "Host" } th { "Encrypted" } th { "Key" } th { "Home" } }
            @for vm in vms {
                tr {
                    td { (vm.name) }
                    td { @match vm.power { Power::On => span.good { "on" }, Power::Off => span.dim { "off" } } }
                    td { @if let Some(host) = &vm.host { (host) } }
                    td { @if vm.config.is_none() { span.dim { "being made" } }
                         @else if vm.encrypted { span.good { "yes" } } @else { "no" } }
                    td { @for key in &vm.keys { code { (key) } " " } }
                    td { code.dim { (vm.home.display()) } }
                }
            }
            @if vms.is_empty() { tr { td.dim colspan="6" { "none yet: " code { "ward vm import" } " makes one" } } }
        }
    }
}

fn host_table(hosts: &[HostView]) -> Markup {
    html! {
        h2 { "Hosts" }
        table {
            tr { th { "Name" } th { "State" } th { "Address" } th { "Cluster" } th { "Guests run by" }
                 th { "Encryption mode" } th { "Keys" } th { "VMs" } }
            @for host in hosts {
                tr {
                    td { (host.name) }
                    td { @match host.state {
                        HostState::Connected => span.good { "connected" },
                        HostState::Disconnected => span.bad { "disconnected" },
                        HostState::Unknown => span.dim { "unknown" },
                    } }
                    td { code { (host.address) } }
                    td { (host.cluster) }
                    td { @match (&host.qemu, host.kvm) {
                        (None, _) => span.warning { "no QEMU" },
                        (Some(_), true) => "KVM",
                        (Some(_), false) => "emulation",
                    } }
                    td { @match host.mode {
                        HostMode::Safe => span.good { (host.mode) },
                        HostMode::PendingIncapable => span.warning { (host.mode) },
                        HostMode::Incapable | HostMode::Prepared => span.dim { (host.mode) },
                    } }
                    td { (host.key_count) }
                    td { (host.vms.len()) }
                }
            }
            @if hosts.is_empty() { tr { td.dim colspan="8" { "none yet" } } }
        }
    }
}

fn provider_table(providers: &[ProviderView]) -> Markup {
    html! {
        h2 { "Key providers" }
        table {
            tr { th { "Name" } th { "Kind" } th { "Status" } th { "Key servers" } th { "Certificate" } th { "Keys" } }
            @for provider in providers {
                tr {
                    td { (provider.name) @if provider.default { span.dim { " default" } } }
                    td { (provider.kind) }
                    td { (light(provider.status)) }
                    td { @for server in &provider.servers { code { (server.address) } " " (light(server.status)) " " } }
                    td { @if let Some(certificate) = &provider.certificate { (certificate.days_left) " days left" } }
                    td { (provider.keys_needed)
                         @if provider.keys_unreachable > 0 {
                             span.bad { ", " (provider.keys_unreachable) " can't be had" }
                         } }
                }
            }
            @if providers.is_empty() {
                tr { td.dim colspan="6" { "none yet: " code { "ward provider add" } " adds one" } }
            }
        }
    }
}

fn light(light: Light) -> Markup {
    let class = match light {
        Light::Green => "good",
        Light::Yellow => "warning",
        Light::Red => "bad",
        Light::Unknown => "dim",
    };
    html! { span class=(class) { (light) } }
}

fn task_table(tasks: &[TaskView]) -> Markup {
    html! {
        h2 { "Tasks" }
        table {
            tr { th { "Begun" } th { "Task" } th { "VM" } th { "By" } th { "State" } th { "Step" } }
            @for TaskView { info, .. } in tasks {
                tr {
                    td.dim { (time(info.created)) }
                    td { (info.kind) }
                    td { (info.vm_name) }
                    td { (info.user) }
                    td { @match info.state {
                        TaskState::Succeeded => span.good { "done" },
                        TaskState::Failed => span.bad { "failed" },
                        TaskState::Queued | TaskState::Running => {
                            @if info.progress.total > 0 {
                                progress max=(info.progress.total) value=(info.progress.done) {}
                            } @else { "running" }
                        }
                    } }
                    td { @match &info.problem {
                        Some(problem) => span.bad { (problem.why) ". " (problem.remedy) },
                        None => (info.step),
                    } }
                }
            }
        }
    }
}

fn event_table(events: &[Event]) -> Markup {
    html! {
        h2 { "Events" }
        table {
            tr { th { "Time" } th { "Event" } th { "What" } }
            @for event in events {
                tr {
                    td.dim { (time(event.time)) }
                    td { code class=(class(event.severity)) { (event.kind) } }
                    td { (event.message) }
                }
            }
        }
    }
}

const fn class(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "dim",
        Severity::Warning => "warning",
        Severity::Error => "error",
    }
}

fn time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S").to_string()
}
