use super::*;

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec:\n";

fn mistakes(text: &str) -> Vec<String> {
    parse(text).err().unwrap_or_default().iter().map(ToString::to_string).collect()
}

#[test]
fn a_wrong_field_is_named_with_its_line() {
    let at = |line, rest: &str| format!("document 1, line {line}: Service shop/web: {rest}");
    let rows = [
        (
            "  clusterIP: 10.96.0\n",
            at(5, "spec.clusterIP: invalid value: string \"10.96.0\", expected an IP address or None"),
        ),
        (
            "  ports:\n  - port: x80\n",
            at(6, "spec.ports[0].port: invalid type: string \"x80\", expected a port from 1 to 65535"),
        ),
        (
            "  ports:\n  - port: 0\n",
            at(6, "spec.ports[0].port: invalid value: integer `0`, expected a port from 1 to 65535"),
        ),
        (
            "  ports:\n  - port: '80'\n",
            at(6, "spec.ports[0].port: invalid type: string \"80\", expected a port from 1 to 65535"),
        ),
        ("  ports:\n  - name: x\n", at(6, "spec.ports[0]: missing field `port`")),
        ("  ports: 5\n", at(5, "spec.ports: expected sequence start")),
        ("  selector: {app: 1}\n", at(5, "spec.selector.app: The string value [1] must be quoted")),
        (
            "  ports: [{port: 80, protocol: tcp}]\n",
            at(5, "spec.ports[0].protocol: unknown variant `tcp`, expected one of TCP, UDP, SCTP"),
        ),
        (
            "  ports: [{port: 80}, {port: 81}]\n",
            at(1, "spec.ports[0].name: is missing: a Service with several ports names them"),
        ),
        (
            "  ports: [{port: 80, name: a}, {port: 80, name: b}]\n",
            at(1, "spec.ports[1]: has port and protocol of spec.ports[0]"),
        ),
        (
            "  clusterIPs: [10.0.0.1, 10.0.0.2]\n",
            at(1, "spec.clusterIPs[1]: is of the same family as spec.clusterIPs[0]"),
        ),
    ];
    for (spec, expected) in rows {
        assert_eq!(mistakes(&format!("{SERVICE}{spec}")), [expected], "{spec}");
    }
}

#[test]
fn what_is_no_object_is_said_so() {
    let rows = [
        ("hello", "document 1, line 1: expected mapping start"),
        ("\nspec: {}\n", "document 1, line 2: kind is missing"),
        ("kind: Service\n", "document 1, line 1: Service: apiVersion is missing"),
        ("apiVersion: v1\nkind: Service\n", "document 1, line 1: Service: metadata.name: is missing"),
        ("a: 1\na: 2\n", "document 1, line 2: duplicate mapping key: a"),
        ("a: {b: 1\n", "document 1, line 1: unclosed bracket '{'"),
    ];
    for (text, expected) in rows {
        assert_eq!(mistakes(text), [expected], "{text}");
    }
}

#[test]
fn every_document_is_looked_at_and_lines_count_from_the_top_of_the_file() {
    let text = format!("# shop\n---\n{SERVICE}  clusterIP: x\n---\n\n---\n# nothing\n---\n{SERVICE}  type: Other\n");
    assert_eq!(
        mistakes(&text),
        [
            "document 1, line 7: Service shop/web: spec.clusterIP: invalid value: string \"x\", expected an IP address or None",
            "document 2, line 17: Service shop/web: spec.type: unknown variant `Other`, expected one of ClusterIP, NodePort, LoadBalancer, ExternalName",
        ]
    );
}

#[test]
fn in_a_list_the_item_is_named() {
    let text = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Node, metadata: {name: n1}}\n\
                - apiVersion: v1\n  kind: Pod\n  metadata: {name: p}\n  status: {podIP: x}\n";
    assert_eq!(
        mistakes(text),
        [
            "document 1, line 8: Pod default/p: items[1].status.podIP: invalid value: string \"x\", expected an IP address"
        ]
    );
    let good = parse(&text.replace("podIP: x", "podIP: 10.0.0.1")).unwrap();
    assert_eq!(good.objects.iter().map(Object::kind).collect::<Vec<_>>(), ["Node", "Pod"]);
}

#[test]
fn a_service_cidr_has_ranges() {
    let text =
        "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: a}\nspec: {cidrs: [10.96.0.0/16]}\n";
    let good = parse(text).unwrap();
    let [Object::ServiceCidr(range)] = &good.objects[..] else { panic!("{good:?}") };
    assert_eq!((range.name.to_string(), range.cidrs[0].to_string()), ("a".to_owned(), "10.96.0.0/16".to_owned()));
    assert_eq!(
        mistakes(&text.replace(".0/16", ".1/16")),
        [
            "document 1, line 4: ServiceCIDR a: spec.cidrs[0]: invalid value: string \"10.96.0.1/16\", expected a range of addresses, such as 10.96.0.0/16"
        ]
    );
}

#[test]
fn fields_and_kinds_that_nobody_knows_are_passed_over() {
    let text = format!(
        "{SERVICE}  clusterIP: 10.0.0.1\n  colour: {{deep: [blue]}}\nstate: 5\n---\n\
         apiVersion: apps/v1\nkind: Deployment\nspec: {{ports: 7, selector: []}}\n---\n\
         apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {{name: other}}\nspec: []\n"
    );
    assert_eq!(parse(&text).unwrap().objects.len(), 1);
}

#[test]
fn null_is_absent() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: web, labels: null}\n\
                spec: {clusterIP: None, ports: null, selector: ~, type: null}\n";
    let Object::Service(service) = &parse(text).unwrap().objects[0] else { panic!("it is a Service") };
    assert_eq!(service.name, ObjectName::new("default", "web"));
    assert!(!service.is_programmed());
}

#[test]
fn json_is_read_too_also_with_tabs() {
    let text = "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Service\",\n\t\"metadata\": {\"name\": \"web\"},\n\
                \t\"spec\": {\"clusterIP\": \"10.0.0.1\", \"ports\": [{\"port\": 80, \"targetPort\": \"http\"}]}\n}\n";
    assert_eq!(parse(text).unwrap().objects.len(), 1);
}

#[test]
fn a_service_without_address_is_noted_since_nobody_gives_it_one() {
    let notes = |spec: &str| parse(&format!("{SERVICE}{spec}")).unwrap().notes.len();
    assert_eq!(notes("  ports: [{port: 80}]\n"), 1);
    assert_eq!(notes("  clusterIP: None\n"), 0);
    assert_eq!(notes("  type: ExternalName\n"), 0);
}

#[test]
fn slices_of_nobody_and_for_no_virtual_ip_are_left_out() {
    let slice = |labels: &str, kind: &str| {
        let text = format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: s, labels: {{{labels}}}}}\n\
             addressType: {kind}\nendpoints: [{{addresses: [10.0.0.1]}}]\nports: [{{port: 80}}, {{name: all}}]\n"
        );
        parse(&text)
    };
    let Object::EndpointSlice(ours) = &slice("kubernetes.io/service-name: web", "IPv4").unwrap().objects[0] else {
        panic!("it is a slice")
    };
    assert!(ours.endpoints[0].ready && ours.endpoints[0].serving && !ours.endpoints[0].terminating);
    assert_eq!(ours.ports.len(), 1);
    assert_eq!(slice("", "IPv4").unwrap().objects, []);
    let foreign = "kubernetes.io/service-name: web, service.kubernetes.io/headless: ''";
    assert_eq!(slice(foreign, "IPv4").unwrap().objects, []);
    // Whose it is, its Service says.
    let named = "kubernetes.io/service-name: web, service.kubernetes.io/service-proxy-name: other";
    assert_eq!(slice(named, "IPv4").unwrap().objects.len(), 1);
    assert_eq!(slice("kubernetes.io/service-name: web", "FQDN").unwrap().objects, []);
    assert_eq!(
        slice("kubernetes.io/service-name: web", "IPv6").unwrap_err()[0].to_string(),
        "document 1, line 1: EndpointSlice default/s: endpoints[0].addresses[0]: 10.0.0.1 is not of the slice's addressType"
    );
}

#[test]
fn a_list_may_be_as_long_as_a_cluster_is_large() {
    let item = "- {apiVersion: v1, kind: Service, metadata: {name: s, namespace: n}, spec: {clusterIP: 10.0.0.1, ports: [{port: 80}]}}\n";
    let list = format!("apiVersion: v1\nkind: List\nitems:\n{}", item.repeat(20_000));
    assert_eq!(mistakes(&list), [""; 0]);
    assert_eq!(parse(&list).unwrap().objects.len(), 20_000);
}
